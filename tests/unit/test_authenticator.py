"""Which requests an authenticator admits, and what it remembers."""

import asyncio
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fraudops.api_keys import digest_of
from fraudops.errors import SettingsError, StoreDownError
from fraudops.settings import ClientAuthSettings
from services.inference.http.client_auth import authenticator as module
from services.inference.http.client_auth import rate_limit
from services.inference.http.client_auth.api_keys import ApiKeyRing
from services.inference.http.client_auth.authenticator import MAX_VERIFIED, Authenticator
from services.inference.http.client_auth.files import check_files
from services.inference.http.client_auth.tokens import TokenClient
from services.inference.http.problems import (
    MissingCredentialError,
    RateLimitedError,
    ScopeError,
    UnknownCredentialError,
)
from tests.support.client_site import BEARER, ISSUED, KEY, OTHER, ClientSite, entry
from tests.support.tokens import AUDIENCE, ISSUER, jwks, signing_key


async def forgotten(clients: Authenticator, value: bytes, now: float) -> None:
    """Wait until the value of a header is known no longer."""
    async with asyncio.timeout(10):
        while clients.known(value, "predict", now):  # noqa: ASYNC110 (a reload is no event)
            await asyncio.sleep(0.01)


@pytest.fixture
def site(tmp_path: Path) -> ClientSite:
    return ClientSite(tmp_path)


@pytest.fixture(autouse=True)
def nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    text = caplog.text + "".join(str(record.__dict__) for record in caplog.records)
    for key in (KEY, OTHER):
        assert key not in text
        assert digest_of(key).hex() not in text


@pytest.mark.parametrize(
    ("mode", "headers", "outcome"),
    [
        ("disabled", {}, None),
        ("disabled", {b"authorization": b"Bearer nonsense"}, None),
        ("optional", {}, None),
        ("optional", {b"authorization": BEARER}, "shop"),
        ("optional", {b"authorization": b"Bearer nonsense"}, "unknown"),
        ("required", {}, "missing"),
        ("required", {b"x-api-key": KEY.encode()}, "shop"),
        ("required", {b"authorization": BEARER, b"x-api-key": KEY.encode()}, "unknown"),
    ],
)
async def test_the_mode_decides_about_a_request_without_a_credential(
    site: ClientSite, mode: str, headers: dict[bytes, bytes], outcome: str | None
) -> None:
    clients = site.clients(mode=mode)
    assert (clients.enabled, clients.required) == (mode != "disabled", mode == "required")
    errors = {"missing": MissingCredentialError, "unknown": UnknownCredentialError}
    if outcome in errors:
        with pytest.raises(errors[outcome]):
            await clients.verify(headers, "predict")
        assert site.metrics.seen == [outcome]
    else:
        client = await clients.verify(headers, "predict")
        assert (client.name if client else None) == outcome
        assert site.metrics.seen == []
    # A route without a scope is open.
    assert await clients.verify({}, None) is None


@pytest.mark.parametrize("header", [b"authorization", b"x-api-key"])
@pytest.mark.parametrize(
    ("value", "known"),
    [
        (BEARER, True),
        (KEY.encode(), True),
        (b"bearer " + KEY.encode(), True),
        (b"BEARER   " + KEY.encode() + b" ", True),
        (b"Bearer" + KEY.encode(), False),
        (b"Basic " + KEY.encode(), False),
        (b"Bearer " + KEY.encode() + b" x", False),
        (b"Bearer " + KEY.encode()[:-1], False),
        (b"Bearer " + KEY.upper().encode(), False),
        (b"Bearer " + digest_of(KEY).hex().encode(), False),
        (b"Bearer fo_", False),
        (b"Bearer ", False),
        (b"", False),
        (b"Bearer " + OTHER.encode(), False),
        (b"Bearer \xff\xfe", False),
        (b"Bearer a.b.c", False),
    ],
    # A test that has a key in its name has another name in each process.
    ids=count(),
)
async def test_a_key_is_the_same_in_both_headers(
    site: ClientSite, header: bytes, value: bytes, known: bool
) -> None:
    clients = site.clients()
    for _ in range(2):
        if known:
            assert await clients.verify({header: value}, "predict")
        else:
            with pytest.raises(UnknownCredentialError):
                await clients.verify({header: value}, "predict")
        # What is known is so for the fast path too, and in either header.
        assert (clients.known(value, "predict", site.now) is not None) is known


async def test_a_key_lacks_what_its_scopes_do_not_name(site: ClientSite) -> None:
    clients = site.clients()
    await clients.verify({b"authorization": BEARER}, "predict")
    for scope in ("feedback", "read"):
        assert clients.known(BEARER, scope, site.now) is None
        with pytest.raises(ScopeError, match=f"lacks the scope {scope}"):
            await clients.verify({b"authorization": BEARER}, scope)
    assert site.metrics.seen == ["scope", "scope"]


async def test_a_key_expires_also_while_it_is_remembered(site: ClientSite) -> None:
    site.write(entry(KEY, expires="2030-01-01T00:00:00+02:00"))
    clients, end = site.clients(), 1893448800.0
    site.now = end - 1
    assert await clients.verify({b"x-api-key": KEY.encode()}, "predict")
    assert clients.known(KEY.encode(), "predict", end - 1)
    assert clients.known(KEY.encode(), "predict", end) is None
    site.now = end
    with pytest.raises(UnknownCredentialError):
        await clients.verify({b"x-api-key": KEY.encode()}, "predict")


async def test_two_keys_of_a_client_rotate_it_and_share_its_rate(site: ClientSite) -> None:
    site.write(entry(KEY, rate_per_second=5), entry(OTHER, rate_per_second=20))
    clients = site.clients(rate_per_second=3)
    old = await clients.verify({b"x-api-key": KEY.encode()}, "predict")
    new = await clients.verify({b"x-api-key": OTHER.encode()}, "predict")
    assert old
    assert new
    assert old.name == new.name == "shop"
    assert old.bucket is new.bucket
    assert old.bucket
    assert old.bucket.rate == 20


async def test_a_removed_key_is_refused_after_a_reload(
    site: ClientSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    clients = site.clients()
    assert await clients.verify({b"authorization": BEARER}, "predict")
    following = asyncio.create_task(clients.run())
    site.write(entry(OTHER))
    await forgotten(clients, BEARER, site.now)
    with pytest.raises(UnknownCredentialError):
        await clients.verify({b"authorization": BEARER}, "predict")
    assert await clients.verify({b"x-api-key": OTHER.encode()}, "predict")
    following.cancel()


@pytest.mark.parametrize("content", ["", "{}", '{"keys": [7]}', None])
async def test_a_bad_file_changes_nothing_and_is_logged_once(
    site: ClientSite, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clients, ring = site.clients(), ApiKeyRing(site.keys)
    if content is None:
        site.keys.unlink()
    else:
        site.write(content)
    assert [ring.changed() for _ in range(3)] == [False] * 3
    assert ring.find(KEY.encode())
    (line,) = caplog.records
    assert str(site.keys) in line.__dict__["reason"]
    site.write(entry(OTHER))
    assert [ring.changed(), ring.changed()] == [True, False]
    assert (ring.find(KEY.encode()), bool(ring.find(OTHER.encode()))) == (None, True)
    assert await clients.verify({b"authorization": BEARER}, "predict")
    assert site.metrics.seen == []


async def test_following_the_files_goes_on_after_a_defect(
    site: ClientSite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.0)
    clients, looks = site.clients(), [0]

    def broken(_ring: ApiKeyRing) -> bool:
        looks[0] += 1
        raise RuntimeError(KEY) if looks[0] == 1 else asyncio.CancelledError

    monkeypatch.setattr(ApiKeyRing, "changed", broken)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(clients.run(), 10)
    assert looks == [2]
    caplog.clear()
    await asyncio.wait_for(site.clients(mode="disabled").run(), 10)


async def test_a_client_above_its_rate_is_refused_on_both_ways(site: ClientSite) -> None:
    clients = site.clients(rate_per_second=2)
    headers = {b"authorization": BEARER}
    assert await clients.verify(headers, "predict")
    # The fast path asks, and charges once it has taken the request.
    for _ in range(9):
        assert clients.known(BEARER, "predict", site.now)
        clients.charge("shop", 1)
    assert clients.known(BEARER, "predict", site.now) is None
    with pytest.raises(RateLimitedError) as refused:
        await clients.verify(headers, "predict")
    assert refused.value.seconds == pytest.approx(0.5)
    assert site.metrics.seen == ["rate"]
    site.now += 0.6
    assert await clients.verify(headers, "predict")
    clients.charge("shop", 99)
    with pytest.raises(RateLimitedError) as refused:
        await clients.verify(headers, "predict")
    assert refused.value.seconds == pytest.approx(49.9)


async def test_a_reload_does_not_fill_the_bucket_of_a_client(site: ClientSite) -> None:
    clients = site.clients(rate_per_second=1)
    for _ in range(10):
        await clients.verify({b"authorization": BEARER}, "predict")
    clients._forget()
    with pytest.raises(RateLimitedError):
        await clients.verify({b"authorization": BEARER}, "predict")


async def test_a_token_is_verified_again_after_five_minutes(site: ClientSite) -> None:
    clients, token = site.with_tokens(), ISSUED.token(sub="desk")
    bearer = b"Bearer " + token
    client = await clients.verify({b"authorization": bearer}, "predict")
    assert client
    assert client.name == "desk"
    assert clients.known(bearer, "predict", time.time() + 200)
    assert clients.known(bearer, "predict", time.time() + 301) is None
    # Without its dots it is no token, and with a prefix of a key neither.
    for wrong in (token.replace(b".", b""), b"fo_" + token, token + b"."):
        with pytest.raises(UnknownCredentialError):
            await clients.verify({b"x-api-key": wrong}, "predict")
    assert await clients.verify({b"x-api-key": KEY.encode()}, "predict")


async def test_a_token_of_a_removed_key_is_refused_after_a_reload(
    site: ClientSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    clients, bearer = site.with_tokens(keys_file=None), b"Bearer " + ISSUED.token()
    assert await clients.verify({b"authorization": bearer}, "predict")
    following = asyncio.create_task(clients.run())
    site.jwks.write_bytes(jwks(signing_key("ES256", "2")))
    await forgotten(clients, bearer, time.time())
    with pytest.raises(UnknownCredentialError):
        await clients.verify({b"authorization": bearer}, "predict")
    with pytest.raises(UnknownCredentialError):
        await clients.verify({b"authorization": BEARER}, "predict")
    following.cancel()


async def test_a_token_may_come_again_if_no_keys_were_ever_read(
    site: ClientSite,
) -> None:
    url = {"jwks_file": None, "jwks_url": "http://127.0.0.1:1/"}
    clients = site.with_tokens(**url)
    with pytest.raises(StoreDownError):
        await clients.verify({b"authorization": b"Bearer " + ISSUED.token()}, "predict")
    assert await clients.verify({b"authorization": BEARER}, "predict")
    assert site.metrics.seen == []


async def test_no_number_of_credentials_fills_the_memory(site: ClientSite) -> None:
    keys = [f"fo_{number:043}" for number in range(MAX_VERIFIED + 5)]
    site.write(*(entry(key) for key in keys))
    clients = site.clients()
    for key in keys:
        assert await clients.verify({b"x-api-key": key.encode()}, "predict")
    assert len(clients._verified) == MAX_VERIFIED
    for number in range(100):
        with pytest.raises(UnknownCredentialError):
            await clients.verify({b"authorization": b"Bearer %d" % number}, "predict")
    assert len(clients._verified) == MAX_VERIFIED


async def test_a_token_that_is_written_in_many_ways_is_verified_and_remembered_once(
    site: ClientSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients, token, verified = site.with_tokens(), ISSUED.token(sub="desk"), list[bytes]()
    assert clients._tokens
    real = clients._tokens.verify

    async def counted(token: bytes) -> Any:
        verified.append(token)
        return await real(token)

    monkeypatch.setattr(clients._tokens, "verify", counted)
    ways = [token, b"BEARER " + token, *(b"Bearer" + b" " * n + token for n in range(1, 50))]
    for value in ways:
        assert await clients.verify({b"authorization": value}, "predict")
        assert clients.known(value, "predict", time.time())
    assert verified == [token]
    assert list(clients._verified) == [token]


async def test_a_client_whose_token_is_verified_again_keeps_its_rate(
    site: ClientSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that is remembered longer than its bucket would have no rate."""
    monkeypatch.setattr(module, "MAX_VERIFIED", 5)
    monkeypatch.setattr(rate_limit, "MAX_BUCKETS", 5)
    clients = site.with_tokens(rate_per_second=1)

    class Tokens:
        async def verify(self, token: bytes) -> TokenClient:
            name = token.decode().split(".")[1]
            return TokenClient(name, frozenset({"predict"}), site.now + 300)

    clients._tokens = Tokens()  # type: ignore[assignment]

    async def use(name: str) -> None:
        await clients.verify({b"authorization": f"Bearer a.{name}.c".encode()}, "predict")

    for name in ("b", "c", "d"):
        await use(name)
    site.now += 200
    await use("first")
    site.now += 101
    for name in ("b", "c", "d", "e", "f"):
        await use(name)
    remembered = {client.name for client in clients._verified.values()}
    assert remembered == clients._limits._buckets.keys()


async def test_a_key_that_expires_takes_its_rate_along(
    site: ClientSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    end = 1893448800.0
    site.write(
        entry(KEY, rate_per_second=2),
        entry(OTHER, rate_per_second=500, expires="2030-01-01T00:00:00+02:00"),
    )
    clients, site.now = site.clients(), end - 1

    async def bucket() -> Any:
        client = await clients.verify({b"authorization": BEARER}, "predict")
        assert client
        assert client.bucket
        return client.bucket

    assert (await bucket()).rate == 500
    following = asyncio.create_task(clients.run())
    site.now = end
    async with asyncio.timeout(10):
        while (await bucket()).rate == 500:
            site.now += 1
            await asyncio.sleep(0.01)
    assert (await bucket()).rate == 2
    following.cancel()


async def test_keys_are_looked_at_while_the_issuer_of_the_tokens_does_not_answer(
    site: ClientSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    clients, hanging = site.with_tokens(), asyncio.Event()

    async def refreshed() -> bool:
        hanging.set()
        await asyncio.sleep(3600)
        return False

    assert clients._tokens
    monkeypatch.setattr(clients._tokens, "refreshed", refreshed)
    assert await clients.verify({b"authorization": BEARER}, "predict")
    following = asyncio.create_task(clients.run())
    await asyncio.wait_for(hanging.wait(), 10)
    site.write(entry(OTHER))
    await forgotten(clients, BEARER, site.now)
    following.cancel()


@pytest.mark.parametrize("guessed", ["secret", "fo_secret", "fo_" + "a" * 44])
def test_a_key_of_another_form_is_refused_although_its_hash_is_in_the_file(
    site: ClientSite, guessed: str
) -> None:
    site.write(entry(guessed), entry(KEY))
    ring = ApiKeyRing(site.keys)
    assert ring.find(guessed.encode()) is None
    assert ring.find(KEY.encode())


def test_a_wrong_file_is_found_before_the_first_worker_starts(site: ClientSite) -> None:
    site.jwks.write_text("{}")
    issuer = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwks_file": site.jwks}
    with pytest.raises(SettingsError, match=r"jwks\.json"):
        check_files(ClientAuthSettings(mode="required", **issuer))
    check_files(ClientAuthSettings(mode="required", keys_file=site.keys))
    site.write("{}")
    wrong = {"keys_file": site.keys}
    with pytest.raises(SettingsError, match=r"keys\.json"):
        check_files(ClientAuthSettings(mode="optional", **wrong))
    check_files(ClientAuthSettings(mode="disabled", **wrong))
