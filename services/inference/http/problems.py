"""Errors as HTTP: one table, one body (RFC 9457).

A message never contains what a client sent.
"""

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
from services.inference.parsing import FieldFault, InvalidBodyError
from services.inference.pod.status import NotReadyError
from services.inference.pod.worker_channel import WorkerShown

CONTENT_TYPE = "application/problem+json"


class BodyTooLargeError(FraudopsError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"the body is larger than {limit >> 10} KiB")


class NotJsonError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("send JSON with the header Content-Type: application/json")


class SlowBodyError(FraudopsError):
    def __init__(self, seconds: float) -> None:
        super().__init__(f"the body did not arrive within {seconds:g} s")


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
# The first row whose type fits is taken: a subclass stands above its base.
ERROR_RESPONSES: Mapping[type[Exception], ErrorResponse] = {
    InvalidBodyError: ErrorResponse(422, "The body was refused"),
    BodyTooLargeError: ErrorResponse(413, "The body is too large"),
    SlowBodyError: ErrorResponse(408, "The body came too slowly"),
    CutOffError: ErrorResponse(400, "The body is cut off"),
    NotJsonError: ErrorResponse(415, "Not JSON"),
    UnauthorisedError: ErrorResponse(401, "Not authorised", ((b"www-authenticate", b"Bearer"),)),
    AdminDisabledError: ErrorResponse(403, "Admin calls are off"),
    NoSuchEndpointError: ErrorResponse(404, "Not found"),
    NoSuchBundleError: ErrorResponse(404, "Not found"),
    WrongMethodError: ErrorResponse(405, "Method not allowed"),
    NotReadyError: ErrorResponse(503, "Not ready"),
    SpoolFullError: ErrorResponse(503, "The audit spool is full", RETRY),
    StoreDownError: ErrorResponse(503, "Not available now", RETRY),
    # A backup may repair the record, and the same call then succeeds.
    RecordUnreadableError: ErrorResponse(503, "Not available now", RETRY),
    RefusedError: ErrorResponse(409, "Refused"),
    SettingsError: ErrorResponse(409, "Refused"),
}
CRASH = ErrorResponse(500, "A defect of the service")


def problem_response(error: Exception) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body.

    An error that is none of ours is a 500 that says nothing about itself: its message may quote
    data.
    """
    kind = next(
        (
            kind
            for kind_of_error, kind in ERROR_RESPONSES.items()
            if isinstance(error, kind_of_error)
        ),
        CRASH,
    )
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
    return kind.status, headers, msgspec.json.encode(body)
