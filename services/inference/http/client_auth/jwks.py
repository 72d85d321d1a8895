"""The public keys of the tokens' issuer, from a JWKS (RFC 7517) in a file or behind a URL."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWTError
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from fraudops.canonical import decode_json
from fraudops.errors import SettingsError, StoreDownError
from fraudops.proxies import UNUSABLE, goes_direct
from fraudops.urls import unreadable_certificates
from services.inference.http.client_auth.watched_file import WatchedFile

logger = logging.getLogger(__name__)
PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
# By `kid`, which may be missing, and algorithm.
KeySet = Mapping[tuple[str | None, str], PublicKey]
MAX_BYTES = 256 << 10
FETCH_SECONDS = 5.0
REFRESH_SECONDS = 600.0
# The shortest time between two fetches. Clients cannot shorten it.
PAUSE_SECONDS = 60.0
REQUEST_SECONDS = 2.0
RSA_BITS = range(2048, 8193)
# By `kty`: the reader, the curve and the only algorithm.
_KINDS: Mapping[str, tuple[Any, str | None, str]] = {
    "RSA": (RSAAlgorithm, None, "RS256"),
    "EC": (ECAlgorithm, "P-256", "ES256"),
    "OKP": (OKPAlgorithm, "Ed25519", "EdDSA"),
}


class _Jwk(msgspec.Struct, frozen=True):
    """One key of the set, as far as it is read. A private part is not."""

    kty: str
    kid: str | None = None
    alg: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    x: str | None = None
    y: str | None = None


class _JwkSet(msgspec.Struct, frozen=True):
    keys: list[msgspec.Raw]


def parse_jwks(data: bytes) -> KeySet:
    """Return the keys that can verify a token; a JWKS may have others.

    These are RSA keys of 2048 to 8192 bits for RS256, P-256 for ES256, and Ed25519 for EdDSA.
    Raises SettingsError, which quotes nothing, if there is none.
    """
    keys: dict[tuple[str | None, str], PublicKey] = {}
    try:
        for raw in decode_json(data, _JwkSet).keys:
            if found := _key_of(raw):
                kid, algorithm, key = found
                keys[kid, algorithm] = key
    except msgspec.MsgspecError:
        raise SettingsError("it is no JWKS") from None
    if not keys:
        raise SettingsError("its JWKS has no key for RS256, ES256 or EdDSA")
    return keys


def _key_of(raw: msgspec.Raw) -> tuple[str | None, str, PublicKey] | None:
    try:
        jwk = decode_json(bytes(raw), _Jwk)
        # No symmetric key is accepted: a program that verifies with it could also sign with it.
        kind, curve, algorithm = _KINDS[jwk.kty]
        verifies = jwk.use in (None, "sig") and (jwk.key_ops is None or "verify" in jwk.key_ops)
        if jwk.crv != curve or jwk.alg not in (None, algorithm) or not verifies:
            return None
        members = {"kty": jwk.kty, "crv": jwk.crv, "n": jwk.n, "e": jwk.e, "x": jwk.x, "y": jwk.y}
        key: Any = kind.from_jwk({name: value for name, value in members.items() if value})
    except (msgspec.MsgspecError, PyJWTError, UnsupportedAlgorithm, KeyError, ValueError):
        return None
    return (jwk.kid, algorithm, key) if _is_strong(key) else None


def _is_strong(key: Any) -> bool:
    """Return whether the key is of a kind and size that is accepted."""
    if isinstance(key, RSAPublicKey):
        return key.key_size in RSA_BITS
    if isinstance(key, EllipticCurvePublicKey):
        return isinstance(key.curve, SECP256R1)
    return isinstance(key, Ed25519PublicKey)


class IssuerKeys(Protocol):
    """Where the issuer's keys come from. `keys` is None as long as they have never been read."""

    @property
    def keys(self) -> KeySet | None: ...

    async def refreshed(self) -> bool:
        """Look for new keys if it is time, and return whether there are some."""

    async def seek(self) -> None:
        """Look for new keys, because a token names one that is unknown."""


def read_jwks(path: Path) -> KeySet:
    """Return the keys of a file. Raises SettingsError, which names the file."""
    try:
        return parse_jwks(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"the JWKS {path} cannot be read: {error.strerror}") from None
    except SettingsError as error:
        raise SettingsError(f"{path} cannot be used: {error}") from None


class JwksFile:
    """The keys of a file. Raises SettingsError if it cannot be used at the start."""

    def __init__(self, path: Path, on_read: Callable[[], None]) -> None:
        self._on_read, self._file = on_read, WatchedFile(path, read_jwks)
        on_read()

    @property
    def keys(self) -> KeySet:
        return self._file.content

    async def refreshed(self) -> bool:
        changed = self._file.changed()
        if changed:
            self._on_read()
        return changed

    async def seek(self) -> None:
        """Do nothing: the file is looked at every few seconds anyway."""


class JwksUrl:
    """The keys behind a URL. Old ones stay valid while it cannot be read.

    `on_read` is called after each fetch. `clock` is a monotonic clock in seconds.
    """

    def __init__(
        self, url: str, on_read: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._url, self._on_read, self._clock = url, on_read, clock
        self._began, self._due = float("-inf"), float("-inf")
        self._known: KeySet | None = None
        self._reported: KeySet | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._fault = ""

    @property
    def keys(self) -> KeySet | None:
        return self._known

    async def refreshed(self) -> bool:
        if self._clock() >= self._due:
            await asyncio.wait({self._begin()})
        # A fetch for a request may have brought them.
        changed, self._reported = self._known is not self._reported, self._known
        return changed

    async def seek(self) -> None:
        """Wait at most 2 s for a fetch. Another one begins a minute later at the earliest."""
        if self._fetching is None and self._clock() < self._began + PAUSE_SECONDS:
            return
        await asyncio.wait({self._begin()}, timeout=REQUEST_SECONDS)

    def _begin(self) -> "asyncio.Task[None]":
        """Return the fetch that runs now, or begin one."""
        if self._fetching is None:
            self._began = self._clock()
            self._due = self._began + PAUSE_SECONDS
            self._fetching = asyncio.create_task(self._update())
        return self._fetching

    async def _update(self) -> None:
        try:
            keys = parse_jwks(await fetch(self._url))
        except (SettingsError, StoreDownError) as error:
            if str(error) != self._fault:
                logger.error(
                    "the public keys of the tokens' issuer cannot be read; those that were read "
                    "before stay valid",
                    extra={"reason": str(error)},
                )
            self._fault = str(error)
        else:
            if self._fault:
                logger.info("the public keys of the tokens' issuer are read again")
            self._fault, self._due = "", self._began + REFRESH_SECONDS
            if keys != self._known:
                self._known = keys
            self._on_read()
        finally:
            self._fetching = None


async def fetch(url: str) -> bytes:
    """Return the document behind a URL, of at most 256 KiB, within 5 s.

    It follows no redirect. Raises StoreDownError, or SettingsError for a proxy or certificates that
    cannot be used. No message quotes the URL.
    """
    try:
        # It reads all certificates of the system: several milliseconds.
        client = await asyncio.to_thread(_client, url)
        async with asyncio.timeout(FETCH_SECONDS), client:
            return await _document(client, url)
    except TimeoutError:
        raise StoreDownError(f"no answer within {FETCH_SECONDS:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise StoreDownError(f"the request failed ({type(error).__name__})") from None


def _client(url: str) -> httpx.AsyncClient:
    try:
        return httpx.AsyncClient(
            timeout=FETCH_SECONDS,
            trust_env=not goes_direct(urlsplit(url).hostname or ""),
            verify=httpx.create_ssl_context(),
            # A compressed answer could be larger than its limit once it is unpacked.
            headers={"accept": "application/json", "accept-encoding": "identity"},
        )
    except (httpx.InvalidURL, ValueError, ImportError):
        raise SettingsError(UNUSABLE) from None
    except OSError as error:
        raise unreadable_certificates(error) from error


async def _document(client: httpx.AsyncClient, url: str) -> bytes:
    async with client.stream("GET", url, follow_redirects=False) as response:
        if response.status_code != httpx.codes.OK:
            raise StoreDownError(f"the answer has the status {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise StoreDownError("the answer is compressed")
        parts, size = [], 0
        async for part in response.aiter_raw():
            size += len(part)
            if size > MAX_BYTES:
                raise StoreDownError(f"the answer is larger than {MAX_BYTES >> 10} KiB")
            parts.append(part)
        return b"".join(parts)
