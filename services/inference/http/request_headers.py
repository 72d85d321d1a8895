"""Values of request headers. A value of another form counts as not sent."""

import re

from services.inference.reading.identifiers import is_identifier

MOST_TIMEOUT_MS = 3_600_000
# Version, trace id, parent id and flags (W3C Trace Context). The version ff is forbidden.
_TRACEPARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)


def request_id(value: bytes | None) -> str | None:
    """Return the client's request id, or None if it could carry more than an id."""
    text = value.decode("latin-1") if value else ""
    return text if is_identifier(text) else None


def timeout_seconds(value: bytes | None) -> float | None:
    """Return the seconds of X-Request-Timeout-Ms: 1 ms to an hour, without a fraction."""
    if value is None or not value.isdigit() or len(value) > len(str(MOST_TIMEOUT_MS)):
        return None
    milliseconds = int(value)
    return milliseconds / 1000 if 1 <= milliseconds <= MOST_TIMEOUT_MS else None


def traceparent(value: bytes | None) -> bytes | None:
    """Return a header of W3C Trace Context as it is."""
    return value if value and _TRACEPARENT.fullmatch(value) else None


def trace_id(value: bytes | None) -> str | None:
    """Return the trace id of a well-formed `traceparent`."""
    return value[3:35].decode() if value else None
