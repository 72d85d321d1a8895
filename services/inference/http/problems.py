"""Errors of requests, and the one table of what they answer.

A message never contains what a client sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fraudops.errors import (
    FraudopsError,
    RefusedError,
    SettingsError,
    SpoolFullError,
    StoreDownError,
)
from fraudops.promotion.serving_record import RecordUnreadableError
from services.inference.pod.status import NotReadyError
from services.inference.reading.faults import InvalidBodyError

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
            self, "the body came too slowly while the service was short of memory: send it again"
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


class NoSuchModelError(FraudopsError):
    def __init__(self) -> None:
        super().__init__("no such model, or no such version of it, is served; see /v2/models")


class WrongMethodError(FraudopsError):
    def __init__(self, allowed: str) -> None:
        self.allowed = allowed
        super().__init__(f"this endpoint takes {allowed}")


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
    NoSuchModelError: ErrorResponse(404, "Not found"),
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
CLOSING = frozenset({408, 413, 414, 431})
