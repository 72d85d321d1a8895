"""Cross-Origin Resource Sharing for pages of the configured origins.

Only public routes take part. No cookie and no HTTP authentication of a browser is allowed.
"""

from collections.abc import Mapping, Sequence

from services.inference.http.messages import Route
from services.inference.http.problems import Headers

_ALLOWED = (
    b"authorization, content-type, traceparent, x-api-key, x-request-id, x-request-timeout-ms"
)
_EXPOSED = b"retry-after, traceparent, x-request-id"
PREFLIGHT_SECONDS = 600


class Cors:
    """The origins whose pages may call the service; without any, no answer has a CORS header."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origin.encode() for origin in origins)

    @property
    def enabled(self) -> bool:
        return bool(self._origins)

    def headers(self, request: Mapping[bytes, bytes], route: Route | None) -> Headers:
        """Return the CORS headers of an answer. The names of `request` are in small letters."""
        origin = request.get(b"origin")
        if origin is None or not self._origins or route is None or route.port == "admin":
            return []
        # A cache must not give this answer to a page of another origin.
        vary = (b"vary", b"origin")
        if origin not in self._origins:
            return [vary]
        return [
            vary,
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", _EXPOSED),
        ]

    def preflight(self, request: Mapping[bytes, bytes], route: Route, allowed: str) -> Headers:
        """Return the additional headers of an answer to OPTIONS; `allowed` are the methods."""
        asks = b"access-control-request-method" in request
        if not asks or route.port == "admin" or request.get(b"origin") not in self._origins:
            return []
        return [
            (b"access-control-allow-methods", allowed.encode()),
            (b"access-control-allow-headers", _ALLOWED),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
        ]
