"""Who a client is, by the credential of its request."""

import asyncio
import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fraudops.settings import ClientAuthSettings
from services.inference.http.client_auth.api_keys import ApiKeyRing
from services.inference.http.client_auth.rate_limit import RateLimits, TokenBucket
from services.inference.http.problems import (
    MissingCredentialError,
    RateLimitedError,
    ScopeError,
    UnknownCredentialError,
)
from services.inference.metrics import Metrics

if TYPE_CHECKING:
    from services.inference.http.client_auth.tokens import TokenVerifier

logger = logging.getLogger(__name__)
LOOK_SECONDS = 5.0
MAX_VERIFIED = 4096
# A JSON Web Token has three parts with dots between them. An API key has no dot.
_TOKEN = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


@dataclass(slots=True, eq=False)
class VerifiedClient:
    """A client whose credential is valid.

    `expires` is when the credential must be verified again, in seconds since 1970. It is 0 once the
    authenticator has forgotten the client: a connection may remember it. `bucket` is None without a
    limit of the rate.
    """

    name: str
    scopes: frozenset[str]
    expires: float
    bucket: TokenBucket | None


class Authenticator:
    """The clients of one worker; only the event loop uses it.

    `enabled`: credentials are looked at. `required`: a request without one is refused. `clock`
    returns seconds since 1970.
    """

    def __init__(
        self,
        settings: ClientAuthSettings,
        metrics: Metrics,
        keys: ApiKeyRing | None = None,
        tokens: "TokenVerifier | None" = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.required = settings.mode == "required"
        self.enabled = settings.mode != "disabled"
        self._metrics, self._keys, self._tokens, self._clock = metrics, keys, tokens, clock
        self._default_rate = settings.rate_per_second
        self._limits = RateLimits(settings.rate_per_second)
        # By the secret, because its header may be written in many ways. The newest is the last.
        self._verified: OrderedDict[bytes, VerifiedClient] = OrderedDict()
        self._forget()

    @classmethod
    def of(cls, settings: ClientAuthSettings, metrics: Metrics) -> "Authenticator":
        """Return the authenticator for the settings.

        Raises SettingsError if a file cannot be used.
        """
        if settings.mode == "disabled":
            return cls(settings, metrics)
        keys = ApiKeyRing(settings.keys_file) if settings.keys_file else None
        if not (settings.jwks_file or settings.jwks_url):
            return cls(settings, metrics, keys)
        # Without a JWKS no worker loads the library.
        from services.inference.http.client_auth.tokens import TokenVerifier

        return cls(settings, metrics, keys, TokenVerifier.of(settings, metrics.jwks_read))

    def known(self, credential: bytes, scope: str, now: float) -> VerifiedClient | None:
        """Return a client that was verified before and may send a request now, or None.

        `credential` is the value of a header, `now` is in seconds since 1970. After None, call
        `verify`, which finds out why. After a client, call `charge` with 1 when the request is
        answered.
        """
        client = self._verified.get(_secret_of(credential))
        if client is None or now >= client.expires or scope not in client.scopes:
            return None
        if client.bucket is not None and client.bucket.wait_seconds(now):
            return None
        return client

    def charge(self, name: str, transactions: int) -> None:
        """Count transactions towards the rate of a client, by its name.

        `verify` has counted one for its request, so a batch has one less.
        """
        self._limits.charge(name, transactions)

    async def verify(
        self, headers: Mapping[bytes, bytes], scope: str | None
    ) -> VerifiedClient | None:
        """Return the client of a request, or None if it may stay unknown.

        The names of `headers` are in small letters. `scope` is that of the route, or None if the
        route needs none. Raises MissingCredentialError, UnknownCredentialError, ScopeError,
        RateLimitedError, or StoreDownError while the keys of the tokens have never been read.
        """
        if not self.enabled or scope is None:
            return None
        authorization, api_key = headers.get(b"authorization"), headers.get(b"x-api-key")
        if authorization is None and api_key is None:
            if self.required:
                self._metrics.client_refused("missing")
                raise MissingCredentialError
            return None
        try:
            if authorization is not None and api_key is not None:
                raise UnknownCredentialError
            client = await self._identified(authorization or api_key or b"")
        except UnknownCredentialError:
            self._metrics.client_refused("unknown")
            raise
        self._admit(client, scope)
        return client

    def _admit(self, client: VerifiedClient, scope: str) -> None:
        """Count one request of the client. Raises ScopeError or RateLimitedError."""
        if scope not in client.scopes:
            self._metrics.client_refused("scope")
            raise ScopeError(scope)
        if client.bucket is not None:
            if wait := client.bucket.wait_seconds(self._clock()):
                self._metrics.client_refused("rate")
                raise RateLimitedError(wait)
            client.bucket.tokens -= 1

    async def run(self) -> None:
        """Follow the files and the URL of the settings until this task is cancelled."""
        # Side by side: the issuer of the tokens may take seconds to answer.
        await asyncio.gather(self._repeat(self._look_at_keys), self._repeat(self._look_at_tokens))

    async def _repeat(self, look: Callable[[], Awaitable[None]]) -> None:
        while self.enabled:
            try:
                await look()
            except Exception as error:
                # Without this task a removed key would stay valid, so it must not end.
                logger.error("the keys of clients could not be looked at", exc_info=error)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_at_keys(self) -> None:
        # A key that has expired may have been the reason for a rate.
        if self._keys and (self._keys.changed() or self._rates() != self._limits.rates):
            self._forget()

    async def _look_at_tokens(self) -> None:
        if self._tokens and await self._tokens.refreshed():
            self._forget()

    def _rates(self) -> Mapping[str, float | None]:
        return self._keys.rates(self._default_rate, self._clock()) if self._keys else {}

    def _forget(self) -> None:
        """Verify each credential again, because the keys have changed."""
        for client in self._verified.values():
            client.expires = 0.0
        self._verified.clear()
        self._limits.set_rates(self._rates())

    async def _identified(self, credential: bytes) -> VerifiedClient:
        """Return the client of a header's value. Raises UnknownCredentialError, StoreDownError."""
        secret, now = _secret_of(credential), self._clock()
        found = self._verified.get(secret)
        if found and now < found.expires:
            return found
        if self._tokens and _TOKEN.fullmatch(secret):
            token = await self._tokens.verify(secret)
            name, scopes, expires = token.name, token.scopes, token.expires
        else:
            name, scopes, expires = self._by_key(secret, now)
        client = VerifiedClient(name, scopes, expires, self._limits.bucket(name, now))
        # In the order of the buckets: a client that is remembered must not lose its bucket.
        forgotten = self._verified.pop(secret, None)
        if forgotten is None and len(self._verified) >= MAX_VERIFIED:
            _, forgotten = self._verified.popitem(last=False)
        if forgotten is not None:
            forgotten.expires = 0.0
        self._verified[secret] = client
        return client

    def _by_key(self, secret: bytes, now: float) -> tuple[str, frozenset[str], float]:
        """Return name, scopes and expiry of an API key. Raises UnknownCredentialError."""
        key = self._keys.find(secret) if self._keys else None
        if key is None:
            raise UnknownCredentialError
        expires = key.expires.timestamp() if key.expires else math.inf
        if now >= expires:
            raise UnknownCredentialError
        return key.name, frozenset(key.scopes), expires


def _secret_of(credential: bytes) -> bytes:
    """Return the key or token in the value of a header, with or without the scheme Bearer."""
    if credential[:7].lower() == b"bearer ":
        return credential[7:].strip(b" ")
    return credential
