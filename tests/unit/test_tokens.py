"""Which tokens are accepted, and what they say about their client."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fraudops.errors import StoreDownError
from fraudops.settings import ClientAuthSettings
from services.inference.http.client_auth.jwks import KeySet, parse_jwks
from services.inference.http.client_auth.tokens import (
    MAX_REFUSED,
    REFUSED_SECONDS,
    TokenVerifier,
    client_name,
)
from services.inference.http.problems import UnknownCredentialError
from tests.support.tokens import AUDIENCE, ISSUER, SigningKey, jwks, signing_key

RSA, EC, ED = signing_key("RS256", "r"), signing_key("ES256", "e"), signing_key("EdDSA", "d")
# The same kid as RSA, and not in the JWKS.
STRANGER, P384 = signing_key("RS256", "r"), signing_key("ES384", "p", curve=ec.SECP384R1())
KEYS = parse_jwks(jwks(RSA, EC, ED))


class Keys:
    """The keys of an issuer, and how often a token asked for others."""

    def __init__(self, keys: KeySet | None = KEYS) -> None:
        self.keys, self.sought = keys, 0

    async def refreshed(self) -> bool:
        return True

    async def seek(self) -> None:
        self.sought += 1


class In:
    """A time so many seconds after the start of the test, which may run long after its import."""

    def __init__(self, seconds: float, kind: Callable[[float], Any] = lambda time: time) -> None:
        self.seconds, self.kind = seconds, kind


def from_now(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claims with each `In` as a time from now."""
    now = int(time.time())
    return {
        name: claim.kind(now + claim.seconds) if isinstance(claim, In) else claim
        for name, claim in claims.items()
    }


def verifier(keys: Keys | None = None, **settings: Any) -> TokenVerifier:
    given = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE} | settings
    return TokenVerifier(ClientAuthSettings(**given), keys or Keys())


def part(content: Mapping[str, Any] | bytes) -> bytes:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def with_header(token: bytes, header: Mapping[str, Any] | bytes) -> bytes:
    """Return the token with another header and the old signature."""
    return b".".join([part(header), *token.split(b".")[1:]])


def symmetric(secret: bytes, kid: str) -> bytes:
    """Return a token that is signed by HS256 with bytes that everyone knows."""
    import hmac

    payload = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "shop",
        "exp": int(time.time()) + 86_400,
        "scope": "predict",
    }
    content = part({"alg": "HS256", "kid": kid}) + b"." + part(payload)
    return content + b"." + part(hmac.digest(secret, content, "sha256"))


@pytest.mark.parametrize("key", [RSA, EC, ED], ids=lambda key: key.algorithm)
async def test_a_token_of_each_algorithm_names_its_client(key: SigningKey) -> None:
    client = await verifier().verify(key.token(scope="openid predict read admin"))
    assert (client.name, client.scopes) == ("shop", frozenset({"predict", "read"}))
    assert client.expires == pytest.approx(time.time() + 300, abs=30)
    expiry = int(time.time()) + 240
    assert (await verifier().verify(key.token(exp=expiry))).expires == expiry + 30


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["other", AUDIENCE]},
        {"exp": In(-10)},
        {"exp": In(3600.5)},
        {"nbf": In(20)},
        {"scope": ["predict", 7]},
        {"jti": "1", "iat": In(0), "email": "a@example.com"},
    ],
)
async def test_claims_that_are_accepted(claims: dict[str, Any]) -> None:
    assert (await verifier().verify(RSA.token(**from_now(claims)))).scopes == {"predict"}


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example.com"},
        {"iss": None},
        {"iss": [ISSUER]},
        {"aud": "other"},
        {"aud": None},
        {"aud": {AUDIENCE: 1}},
        {"aud": AUDIENCE.upper()},
        {"exp": In(-60)},
        {"exp": None},
        {"exp": In(3600, str)},
        {"exp": True},
        {"exp": In(3600, lambda time: [time])},
        {"exp": float("inf")},
        {"nbf": In(3600)},
        {"iat": In(3600)},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
    ],
)
async def test_claims_that_are_refused(claims: dict[str, Any]) -> None:
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "shop", "scope": "predict", "exp": In(7200)}
    payload = from_now(usual | claims)
    content = {name: value for name, value in payload.items() if value is not None}
    # PyJWT would not encode some of them.
    signed = part({"alg": "EdDSA", "kid": "d"}) + b"." + part(content)
    token = signed + b"." + part(ED.private.sign(signed))
    with pytest.raises(UnknownCredentialError):
        await verifier().verify(token)


PEM = RSA.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
GOOD = RSA.token()


@pytest.mark.parametrize(
    "token",
    [
        with_header(GOOD, {"alg": "none", "kid": "r"}).rpartition(b".")[0] + b".",
        with_header(GOOD, {"alg": "none", "kid": "r"}),
        with_header(GOOD, {"alg": "RS512", "kid": "r"}),
        with_header(GOOD, {"alg": "ES256", "kid": "r"}),
        with_header(GOOD, {"alg": "RS256", "kid": "e"}),
        with_header(GOOD, {"alg": "RS256", "kid": ["r"]}),
        with_header(GOOD, {"alg": "RS256", "kid": "../../etc/passwd"}),
        with_header(GOOD, {"alg": "RS256", "kid": "r", "typ": "x"}),
        with_header(GOOD, {"alg": ["RS256"], "kid": "r"}),
        with_header(GOOD, {"kid": "r"}),
        with_header(GOOD, b"[" * 6000),
        with_header(GOOD, b'{"alg":"RS256","kid":"\xff"}'),
        symmetric(PEM, "r"),
        symmetric(json.dumps(RSA.public).encode(), "r"),
        # Well signed, by an algorithm that no key of the set is for.
        SigningKey("RS512", RSA.private, RSA.public).token(),
        SigningKey("PS256", RSA.private, RSA.public).token(),
        STRANGER.token(),
        STRANGER.token({"jwk": STRANGER.public}),
        STRANGER.token({"jku": "http://127.0.0.1:1/jwks", "x5u": "http://127.0.0.1:1/"}),
        RSA.token({"crit": ["exp"], "exp": 1}),
        RSA.token({"crit": ["b64"]}),
        RSA.token(padding="x" * 9000),
        P384.token(),
        GOOD[:-3],
        GOOD[:-1] + (b"A" if GOOD[-1:] != b"A" else b"Q") + b"AAA",
        b"a.b.c",
        b"..",
    ],
    # A test that has a token in its name has another name in each process.
    ids=count(),
)
async def test_tokens_that_are_refused(token: bytes) -> None:
    with pytest.raises(UnknownCredentialError) as refused:
        await verifier().verify(token)
    # Nothing says how close a forged token is.
    assert str(refused.value) == str(UnknownCredentialError())


async def test_a_token_of_our_own_type_of_header_is_accepted() -> None:
    for header in ({"typ": "at+jwt"}, {"jku": "https://example.com"}, {"x5t": "abc"}):
        assert (await verifier().verify(RSA.token(header))).name == "shop"


async def test_a_token_without_a_kid_needs_a_set_with_one_key_of_its_algorithm() -> None:
    token = RSA.token({"kid": None})
    assert (await verifier().verify(token)).name == "shop"
    two = Keys(parse_jwks(jwks(RSA, signing_key("RS256", "other"))))
    with pytest.raises(UnknownCredentialError):
        await verifier(two).verify(token)


async def test_scopes_and_client_may_be_other_claims() -> None:
    claims: dict[str, Any] = {"roles": ["feedback"], "azp": "desk", "scope": "predict"}
    own = verifier(jwt_scope_claim="roles", jwt_client_claim="azp")
    client = await own.verify(EC.token(**claims))
    assert (client.name, client.scopes) == ("desk", frozenset({"feedback"}))
    for scopes in (7, {"predict": 1}, None, True, ""):
        assert (await verifier().verify(EC.token(scope=scopes))).scopes == set()


@pytest.mark.parametrize(
    ("claim", "kept"),
    [
        ("shop", True),
        ("auth0:5f7c8ec7c33c6c004bbafe82", True),
        ("110169484474386276334", True),
        ("4111111111111111", False),
        ("4111-1111-1111-1111", False),
        ("user:4111111111111111", False),
        ("user4111111111111111x", False),
        ("user:4111-1111-1111-1111:7", False),
        ("0b5cbd1c-1234-4567-8901-123456789012", True),
        ("auth0|5f7c8ec7", False),
        ("a" * 65, False),
        ("shop\n", False),
        ("\ud800", False),
        ("ä", False),
    ],
)
def test_a_name_of_other_characters_becomes_a_hash(claim: str, kept: bool) -> None:
    name = client_name(claim)
    assert (name == claim) is kept
    assert kept or (name.startswith("sub:") and len(name) == 20)
    assert client_name(claim) == name


async def test_an_unknown_key_is_sought_and_a_refused_token_costs_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[bytes] = []
    real = jwt.decode

    def counting(token: bytes, *arguments: Any, **options: Any) -> Any:
        decoded.append(token)
        return real(token, *arguments, **options)

    monkeypatch.setattr(jwt, "decode", counting)
    now, keys = [1000.0], Keys()
    tokens = TokenVerifier(
        ClientAuthSettings(jwt_issuer=ISSUER, jwt_audience=AUDIENCE), keys, lambda: now[0]
    )

    async def refused(token: bytes) -> int:
        before = len(decoded)
        with pytest.raises(UnknownCredentialError):
            await tokens.verify(token)
        return len(decoded) - before

    expired, early, unknown = (
        RSA.token(exp=1),
        RSA.token(**from_now({"nbf": In(3600)})),
        P384.token(),
    )
    assert [await refused(expired), await refused(expired)] == [1, 0]
    # It is valid later.
    assert [await refused(early), await refused(early)] == [1, 1]
    assert [await refused(unknown), await refused(unknown), keys.sought] == [0, 0, 2]
    now[0] += REFUSED_SECONDS + 1
    assert await refused(expired) == 1
    assert await tokens.refreshed()
    assert await refused(expired) == 1
    for number in range(MAX_REFUSED):
        await refused(RSA.token(exp=1, jti=str(number)))
    assert await refused(expired) == 1
    assert len(tokens._refused) == MAX_REFUSED


async def test_while_the_keys_were_never_read_the_client_may_try_again() -> None:
    keys = Keys(None)
    with pytest.raises(StoreDownError, match="public keys"):
        await verifier(keys).verify(GOOD)
    assert keys.sought == 1
    with pytest.raises(UnknownCredentialError):
        await verifier(keys).verify(b"a.b.c")
