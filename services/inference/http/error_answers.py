"""Errors as HTTP: one body (RFC 9457). Paths below /v2 have a body of their own."""

import math
from collections.abc import Sequence

import msgspec

from services.inference.http.problems import (
    CRASH,
    ERROR_RESPONSES,
    ErrorResponse,
    Headers,
    RateLimitedError,
    WrongMethodError,
)
from services.inference.pod.status import NotReadyError
from services.inference.pod.worker_channel import WorkerShown
from services.inference.reading.faults import FieldFault, InvalidBodyError

CONTENT_TYPE = "application/problem+json"
V2 = "/v2"


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every error answers, as application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldFault, ...] = ()
    workers: Sequence[WorkerShown] | None = None


class InferenceError(msgspec.Struct, frozen=True):
    """What every error below /v2 answers, as application/json."""

    error: str


def error_response(error: Exception, path: str) -> tuple[int, Headers, bytes]:
    """Return status, headers and body for the client of a path."""
    if speaks_v2(path):
        return inference_error_response(error)
    return problem_response(error)


def problem_response(error: Exception) -> tuple[int, Headers, bytes]:
    """Return status, headers and body."""
    kind = _kind_of(error)
    body = Problem(
        type="about:blank",
        title=kind.title,
        status=kind.status,
        detail=_detail(error, kind),
        errors=error.faults if isinstance(error, InvalidBodyError) else (),
        workers=error.workers if isinstance(error, NotReadyError) else None,
    )
    return kind.status, _headers(error, kind, CONTENT_TYPE), msgspec.json.encode(body)


def speaks_v2(path: str) -> bool:
    """Return whether the Open Inference Protocol rules the path, which may have a query."""
    return path.startswith(V2) and path[len(V2) : len(V2) + 1] in ("", "/", "?")


def inference_error_response(error: Exception) -> tuple[int, Headers, bytes]:
    """Return status, headers and body in the form of the Open Inference Protocol.

    Its clients read `error`, and one compares the content type literally.
    """
    kind = _kind_of(error)
    status = 400 if isinstance(error, InvalidBodyError) else kind.status
    body = msgspec.json.encode(InferenceError(_detail(error, kind)))
    return status, _headers(error, kind, "application/json"), body


def _kind_of(error: Exception) -> ErrorResponse:
    return next(
        (kind for errors, kind in ERROR_RESPONSES.items() if isinstance(error, errors)), CRASH
    )


def _detail(error: Exception, kind: ErrorResponse) -> str:
    """Return the message. An error from a library may quote data, so its message is replaced."""
    if kind is not CRASH:
        return str(error)
    return "the request could not be answered; the service's log says where it failed"


def _headers(error: Exception, kind: ErrorResponse, content_type: str) -> Headers:
    headers = [(b"content-type", content_type.encode()), *kind.headers]
    if isinstance(error, WrongMethodError):
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, RateLimitedError):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.seconds))))
    return headers
