"""Errors as HTTP: one table, one body (RFC 9457).

A message never contains what a client sent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fraudops.errors import (
    FraudopsError,
    RefusedError,
    SettingsError,
    SpoolFullError,
    StoreDownError,
)
from fraudops.promotion.serving_record import RecordUnreadableError
from services.inference.pod.status import NotReadyError
from services.inference.pod.worker_channel import WorkerShown
from services.inference.reading.faults import FieldFault, InvalidBodyError

CONTENT_TYPE = "application/problem+json"
Headers = list[tuple[bytes, bytes]]


class BodyTooLargeError(FraudopsError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit >> 10} KiB")


class NotJsonError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("send JSON with the header Content-Type: application/json")


class SlowBodyError(FraudopsError):
    def __init__(self, seconds: float) -> None:
        super().__init__(f"the body did not arrive within {seconds:g} s")


class StalledBodyError(SlowBodyError):
    def __init__(self) -> None:
        FraudopsError.__init__(
            self, "the body stopped while the service was short of memory: send it again"
        )


class NotHttpError(FraudopsError):
    """Bytes that are no request that this service reads; `reason` is fixed text."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the request is not accepted: {reason}")


class UrlTooLongError(FraudopsError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"the URL is longer than {limit >> 10} KiB")


class HeadTooLargeError(FraudopsError):
    def __init__(self, limit: int, most: int) -> None:
        super().__init__(f"the headers are larger than {limit >> 10} KiB, or more than {most}")


class SlowHeadError(FraudopsError):
    def __init__(self, seconds: float) -> None:
        super().__init__(f"the headers did not arrive within {seconds:g} s")


class EncodedBodyError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("send the body as it is, without a Content-Encoding")


class BusyError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("too many large requests are in progress: try again")


class TooManyConnectionsError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("the service has too many open connections: try again")


class TooManyWaitingError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("too many requests wait on this connection: read their answers first")


class StoppingError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("the service stops, and the request took too long: try again")


class DeadlinePassedError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("the time of X-Request-Timeout-Ms had passed before the work began")


class MissingCredentialError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("send an API key or a token: Authorization: Bearer …, or X-API-Key: …")


class UnknownCredentialError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("the API key or token is not valid, or no longer")


class ScopeError(FraudopsError):
    def __init__(self, scope: str) -> None:
        super().__init__(f"the API key or token lacks the scope {scope}")


class RateLimitedError(FraudopsError):
    """`seconds` are those after which the client may try again."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        super().__init__("the client sends more than its rate: try again later")


class CutOffError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("the connection ended before the body did")


class UnauthorisedError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("the admin token is missing or wrong: send Authorization: Bearer TOKEN")


class AdminDisabledError(FraudopsError):
    def __init__(self) -> None:
        super().__init__(
            "admin calls are off, because the service has no admin token: "
            "start it with FRAUDOPS_ADMIN_TOKEN set"
        )


class NoSuchEndpointError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("there is no such endpoint; see /docs")


class NoSuchBundleError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("this pod's cache has no such file of a bundle")


class WrongMethodError(FraudopsError):
    def __init__(self, allowed: str) -> None:
        self.allowed = allowed
        super().__init__(f"this endpoint takes {allowed}")


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What every error answers, as application/problem+json."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldFault, ...] = ()
    workers: Sequence[WorkerShown] | None = None


@dataclass(frozen=True)
class ErrorResponse:
    status: int
    title: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


RETRY = ((b"retry-after", b"1"),)
BEARER = ((b"www-authenticate", b"Bearer"),)
# The first row whose type fits is taken: a subclass stands above its base.
ERROR_RESPONSES: Mapping[type[Exception], ErrorResponse] = {
    InvalidBodyError: ErrorResponse(422, "The body was refused"),
    BodyTooLargeError: ErrorResponse(413, "The body is too large"),
    SlowBodyError: ErrorResponse(408, "The body came too slowly"),
    CutOffError: ErrorResponse(400, "The body is cut off"),
    NotHttpError: ErrorResponse(400, "Not HTTP"),
    UrlTooLongError: ErrorResponse(414, "The URL is too long"),
    HeadTooLargeError: ErrorResponse(431, "The headers are too large"),
    SlowHeadError: ErrorResponse(408, "The headers came too slowly"),
    NotJsonError: ErrorResponse(415, "Not JSON"),
    EncodedBodyError: ErrorResponse(
        415, "Not accepted encoding", ((b"accept-encoding", b"identity"),)
    ),
    MissingCredentialError: ErrorResponse(401, "Not authenticated", BEARER),
    UnknownCredentialError: ErrorResponse(401, "Not authenticated", BEARER),
    ScopeError: ErrorResponse(403, "Not allowed"),
    RateLimitedError: ErrorResponse(429, "Too many requests"),
    UnauthorisedError: ErrorResponse(401, "Not authorised", BEARER),
    AdminDisabledError: ErrorResponse(403, "Admin calls are off"),
    NoSuchEndpointError: ErrorResponse(404, "Not found"),
    NoSuchBundleError: ErrorResponse(404, "Not found"),
    WrongMethodError: ErrorResponse(405, "Method not allowed"),
    BusyError: ErrorResponse(503, "Too busy", RETRY),
    TooManyConnectionsError: ErrorResponse(503, "Too many connections", RETRY),
    TooManyWaitingError: ErrorResponse(503, "Too many requests wait", RETRY),
    StoppingError: ErrorResponse(503, "Stopping", RETRY),
    DeadlinePassedError: ErrorResponse(503, "The client's deadline has passed"),
    NotReadyError: ErrorResponse(503, "Not ready"),
    SpoolFullError: ErrorResponse(503, "The audit spool is full", RETRY),
    StoreDownError: ErrorResponse(503, "Not available now", RETRY),
    # A backup may repair the record, and the same call then succeeds.
    RecordUnreadableError: ErrorResponse(503, "Not available now", RETRY),
    RefusedError: ErrorResponse(409, "Refused"),
    SettingsError: ErrorResponse(409, "Refused"),
}
CRASH = ErrorResponse(500, "A defect of the service")
# The connection closes after these: what follows on it cannot be trusted, or comes too slowly.
CLOSING = frozenset({400, 408, 413, 414, 431})


def error_response(error: Exception, path: str) -> tuple[int, Headers, bytes]:
    """Return status, headers and body for the client of a path. A path may have its own form."""
    return problem_response(error)


def problem_response(error: Exception) -> tuple[int, Headers, bytes]:
    """Return status, headers and body.

    An error that is none of ours is a 500 that says nothing about itself: its message may quote
    data.
    """
    rows = ERROR_RESPONSES.items()
    kind = next((row for raised, row in rows if isinstance(error, raised)), CRASH)
    detail = (
        str(error)
        if kind is not CRASH
        else "the request could not be answered; the service's log says where it failed"
    )
    body = Problem(
        type="about:blank",
        title=kind.title,
        status=kind.status,
        detail=detail,
        errors=error.faults if isinstance(error, InvalidBodyError) else (),
        workers=error.workers if isinstance(error, NotReadyError) else None,
    )
    headers = [(b"content-type", CONTENT_TYPE.encode()), *kind.headers]
    if isinstance(error, WrongMethodError):
        headers.append((b"allow", error.allowed.encode()))
    if isinstance(error, RateLimitedError):
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.seconds))))
    return kind.status, headers, msgspec.json.encode(body)
