"""Who a client is, by the credential of its request."""

from collections.abc import Mapping
from dataclasses import dataclass

from fraudops.settings import ClientAuthSettings
from services.inference.http.problems import MissingCredentialError, UnknownCredentialError
from services.inference.metrics import Metrics


@dataclass(slots=True, eq=False)
class VerifiedClient:
    """A client whose credential is valid.

    `expires` and `refilled` are times in seconds since 1970. `rate` is in transactions a second,
    or None without a limit. `tokens` are the transactions that the client may send now; a batch may
    make them negative.
    """

    name: str
    scopes: frozenset[str]
    expires: float
    rate: float | None
    tokens: float
    refilled: float


class Authenticator:
    """The clients of one worker; only the event loop uses it. It knows no client yet.

    `enabled`: credentials are looked at. `required`: a request without one is refused.
    """

    def __init__(self, settings: ClientAuthSettings, metrics: Metrics) -> None:
        self.required = settings.mode == "required"
        self.enabled = settings.mode != "disabled"
        self._metrics = metrics

    @classmethod
    def of(cls, settings: ClientAuthSettings, metrics: Metrics) -> "Authenticator":
        """Return the authenticator for the settings."""
        return cls(settings, metrics)

    def known(self, credential: bytes, scope: str, now: float) -> VerifiedClient | None:
        """Return the client if its credential is verified already and has the scope, or None.

        `credential` is the value of a header. `now` is in seconds since 1970.
        """
        return None

    async def verify(
        self, headers: Mapping[bytes, bytes], scope: str | None
    ) -> VerifiedClient | None:
        """Return the client of a request, or None if it may stay unknown.

        The names of `headers` are in small letters. `scope` is that of the route, or None if the
        route needs none. Raises MissingCredentialError, UnknownCredentialError, ScopeError or
        RateLimitedError.
        """
        if not self.enabled or scope is None:
            return None
        if b"authorization" in headers or b"x-api-key" in headers:
            self._metrics.client_refused("unknown")
            raise UnknownCredentialError
        if self.required:
            self._metrics.client_refused("missing")
            raise MissingCredentialError
        return None

    async def run(self) -> None:
        """Follow the files of the settings until this task is cancelled."""
