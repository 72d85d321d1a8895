"""JSON Web Tokens of clients (RFC 7519), signed by one issuer."""

import base64
import binascii
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from typing import Any, NamedTuple, get_args

import jwt
import msgspec

from fraudops.api_keys import NAME, Scope
from fraudops.canonical import decode_json
from fraudops.card_numbers import may_hold_card_number, short_hash
from fraudops.errors import StoreDownError
from fraudops.settings import ClientAuthSettings
from services.inference.http.client_auth.jwks import (
    IssuerKeys,
    JwksFile,
    JwksUrl,
    KeySet,
    PublicKey,
)
from services.inference.http.problems import UnknownCredentialError

MAX_BYTES = 8 << 10
LEEWAY_SECONDS = 30
# A verified token is verified again after this time.
VALID_SECONDS = 300.0
MAX_REFUSED = 256
REFUSED_SECONDS = 60.0
SCOPES = frozenset(get_args(Scope))


class _TokenHeader(msgspec.Struct, frozen=True):
    """The header of a token, as far as it is read.

    The members `jku`, `x5u`, `x5c` and `jwk`, with which a token would bring its own key, are not.
    """

    alg: str
    kid: str | None = None
    crit: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class TokenClient(NamedTuple):
    """The client of a token. `expires` is in seconds since 1970."""

    name: str
    scopes: frozenset[str]
    expires: float


class TokenVerifier:
    """Verifies tokens of the issuer, with the keys of its JWKS.

    `clock` returns seconds since 1970; the claims `exp` and `nbf` are compared with the clock of
    the machine.
    """

    def __init__(
        self,
        settings: ClientAuthSettings,
        keys: IssuerKeys,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings, self._keys, self._clock = settings, keys, clock
        # Tokens that stay refused, by their hash, until when. A client that repeats an expired
        # token then costs no signature.
        self._refused: OrderedDict[bytes, float] = OrderedDict()

    @classmethod
    def of(cls, settings: ClientAuthSettings, on_read: Callable[[], None]) -> "TokenVerifier":
        """Return a verifier. `on_read` is called when the keys were read.

        Raises SettingsError if the file of the JWKS cannot be used.
        """
        if settings.jwks_file:
            return cls(settings, JwksFile(settings.jwks_file, on_read))
        return cls(settings, JwksUrl(settings.jwks_url or "", on_read))

    async def refreshed(self) -> bool:
        """Look for new keys if it is time, and return whether there are some."""
        changed = await self._keys.refreshed()
        if changed:
            self._refused.clear()
        return changed

    async def verify(self, token: bytes) -> TokenClient:
        """Return the client of a token.

        Raises UnknownCredentialError, which does not say what is wrong with the token, or
        StoreDownError.
        """
        if len(token) > MAX_BYTES:
            raise UnknownCredentialError
        digest = sha256(token).digest()
        if self._refused.get(digest, 0.0) > self._clock():
            raise UnknownCredentialError
        header = _header_of(token)
        key = await self._key_for(header)
        try:
            return self._client_of(self._claims(token, header.alg, key))
        except jwt.ImmatureSignatureError:
            # The same token becomes valid later.
            raise UnknownCredentialError from None
        except (jwt.PyJWTError, UnknownCredentialError):
            self._refuse(digest)
            raise UnknownCredentialError from None
        except Exception:  # noqa: BLE001 (a token that makes a library fail is refused)
            # Any client can send bytes that make a library fail. That is no defect of the service,
            # and the token must not pass.
            self._refuse(digest)
            raise UnknownCredentialError from None

    async def _key_for(self, header: _TokenHeader) -> PublicKey:
        """Return the key that the header names. Raises UnknownCredentialError, StoreDownError."""
        if not (found := _find(self._keys.keys, header)):
            await self._keys.seek()
            found = _find(self._keys.keys, header)
        if self._keys.keys is None:
            raise StoreDownError("the public keys of the tokens' issuer cannot be read now")
        if found is None:
            raise UnknownCredentialError
        return found

    def _claims(self, token: bytes, algorithm: str, key: PublicKey) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._settings.jwt_audience,
            issuer=self._settings.jwt_issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud"]},
        )

    def _client_of(self, claims: dict[str, Any]) -> TokenClient:
        """Return the client that the claims name. Raises UnknownCredentialError."""
        name, expires = claims.get(self._settings.jwt_client_claim), claims["exp"]
        # PyJWT also accepts a text with digits.
        if not isinstance(name, str) or not name or not isinstance(expires, int | float):
            raise UnknownCredentialError
        scopes = claims.get(self._settings.jwt_scope_claim)
        listed = scopes.split() if isinstance(scopes, str) else scopes
        names = {each for each in listed if isinstance(each, str)} if type(listed) is list else ()
        until = min(float(expires) + LEEWAY_SECONDS, self._clock() + VALID_SECONDS)
        return TokenClient(client_name(name), SCOPES.intersection(names), until)

    def _refuse(self, digest: bytes) -> None:
        if len(self._refused) >= MAX_REFUSED:
            self._refused.popitem(last=False)
        self._refused[digest] = self._clock() + REFUSED_SECONDS


def client_name(claim: str) -> str:
    """Return the name of a client as the audit keeps it.

    A claim of other characters, or one that may hold a card number, becomes a part of its hash,
    because the audit stores the name as it is.
    """
    if NAME.fullmatch(claim) and not may_hold_card_number(claim):
        return claim
    return f"sub:{short_hash(claim)}"


def _find(keys: KeySet | None, header: _TokenHeader) -> PublicKey | None:
    """Return the key for a header, if it is known.

    The algorithm is that of the key, so that the header cannot choose another one.
    """
    if not keys:
        return None
    if header.kid is not None:
        return keys.get((header.kid, header.alg))
    fitting = [key for (_, algorithm), key in keys.items() if algorithm == header.alg]
    return fitting[0] if len(fitting) == 1 else None


def _header_of(token: bytes) -> _TokenHeader:
    """Return the header of a token. Raises UnknownCredentialError."""
    part = token.partition(b".")[0]
    try:
        data = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
        header = decode_json(data, _TokenHeader)
    except (binascii.Error, msgspec.MsgspecError):
        raise UnknownCredentialError from None
    # RFC 7515, section 4.1.11: what is critical and not understood is refused.
    if header.crit is not msgspec.UNSET:
        raise UnknownCredentialError
    return header
