"""The keys of the tokens' issuer: which are used, and when they are read again."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import RSAAlgorithm

from fraudops.errors import SettingsError
from services.inference.http.client_auth import jwks as module
from services.inference.http.client_auth.jwks import (
    FETCH_SECONDS,
    MAX_BYTES,
    PAUSE_SECONDS,
    REFRESH_SECONDS,
    REQUEST_SECONDS,
    JwksFile,
    JwksUrl,
    parse_jwks,
)
from tests.support.file_server import Served, serve
from tests.support.tokens import jwks, signing_key

ONE, TWO, ED = (
    signing_key("ES256", "1"),
    signing_key("ES256", "2"),
    signing_key("EdDSA", "1"),
)
RSA = signing_key("RS256", "r")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a fetch more time than the service does: a busy machine is no defect."""
    monkeypatch.setattr(module, "REQUEST_SECONDS", 60.0)
    monkeypatch.setattr(module, "FETCH_SECONDS", 60.0)


def reads() -> tuple[list[None], Any]:
    seen: list[None] = []
    return seen, lambda: seen.append(None)


def test_the_keys_of_a_set_are_found_by_kid_and_algorithm() -> None:
    without_alg = {name: value for name, value in RSA.public.items() if name != "alg"}
    keys = parse_jwks(jwks(ONE, ED, without_alg))
    assert set(keys) == {("1", "ES256"), ("1", "EdDSA"), ("r", "RS256")}
    assert keys["1", "ES256"] == ONE.private.public_key()


def private_jwk() -> dict[str, Any]:
    made: Any = RSAAlgorithm.to_jwk(RSA.private, as_dict=True)
    return {**made, "kid": "private", "key_ops": ["verify"]}


@pytest.mark.parametrize(
    "unused",
    [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "o"},
        {"kty": "oct", "k": "c2VjcmV0", "kid": "o", "alg": "RS256"},
        signing_key("RS256", "s", bits=1024).public,
        signing_key("ES384", "p", curve=ec.SECP384R1()).public,
        {**signing_key("ES384", "p", curve=ec.SECP384R1()).public, "crv": "P-256"},
        {**ONE.public, "use": "enc"},
        {**ONE.public, "key_ops": ["sign"]},
        {**ONE.public, "alg": "ES512"},
        {**RSA.public, "alg": "PS256"},
        {**RSA.public, "n": "AQAB"},
        {**RSA.public, "n": 7},
        {**RSA.public, "n": "!"},
        {**ONE.public, "x": "AQAB"},
        {**ONE.public, "y": None},
        {**ED.public, "x": "AQAB"},
        {"kty": "EC"},
        {"kty": "new"},
        {},
        7,
    ],
)
def test_a_key_of_another_kind_is_passed_over(unused: Any) -> None:
    assert set(parse_jwks(jwks(unused, TWO))) == {("2", "ES256")}
    with pytest.raises(SettingsError, match="no key for RS256, ES256 or EdDSA"):
        parse_jwks(jwks(unused))


def test_the_private_part_of_a_key_is_never_read() -> None:
    assert parse_jwks(jwks(private_jwk()))["private", "RS256"] == RSA.private.public_key()


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b"[" * 9000, b'{"keys":{}}'])
def test_what_is_no_set_is_refused_and_not_quoted(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(data)
    with pytest.raises(SettingsError, match=r"jwks\.json cannot be used: it is no JWKS") as refused:
        JwksFile(path, reads()[1])
    assert "keys" not in str(refused.value)


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path, (seen, on_read) = tmp_path / "jwks.json", reads()
    path.write_bytes(jwks(ONE))
    source = JwksFile(path, on_read)
    assert (await source.refreshed(), len(seen)) == (False, 1)
    path.with_name("new").write_bytes(jwks(TWO))
    path.with_name("new").replace(path)
    await source.seek()
    assert (await source.refreshed(), len(seen)) == (True, 2)
    assert set(source.keys) == {("2", "ES256")}
    path.write_text("{}")
    assert (await source.refreshed(), len(seen)) == (False, 2)
    assert set(source.keys) == {("2", "ES256")}


async def test_unknown_keys_fetch_once_a_minute_and_share_the_fetch() -> None:
    now, (seen, on_read) = [0.0], reads()
    with serve(Served(jwks(ONE))) as served:
        source = JwksUrl(served.url, on_read, lambda: now[0])
        assert source.keys is None
        await asyncio.gather(*(source.seek() for _ in range(20)))
        assert source.keys is not None
        assert (len(served.ranges), len(seen)) == (1, 1)
        assert await source.refreshed()
        assert not await source.refreshed()
        served.content = jwks(ONE, TWO)
        now[0] = PAUSE_SECONDS - 1
        await source.seek()
        assert len(served.ranges) == 1
        now[0] = PAUSE_SECONDS
        await source.seek()
        assert set(source.keys) == {("1", "ES256"), ("2", "ES256")}
        # The verified clients are forgotten, although the fetch was one of a request.
        assert await source.refreshed()
        assert len(served.ranges) == 2


async def test_the_keys_are_fetched_every_ten_minutes_and_after_a_failure_every_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now, (seen, on_read) = [0.0], reads()
    with serve(Served(jwks(ONE))) as served:
        source = JwksUrl(served.url, on_read, lambda: now[0])
        assert await source.refreshed()
        now[0] = REFRESH_SECONDS - 1
        assert not await source.refreshed()
        assert len(served.ranges) == 1
        served.status, now[0] = 503, REFRESH_SECONDS
        for _ in range(3):
            assert not await source.refreshed()
            # Old keys stay valid.
            assert source.keys == {("1", "ES256"): ONE.private.public_key()}
            now[0] += PAUSE_SECONDS
        assert (len(served.ranges), len(seen)) == (4, 1)
        (line,) = caplog.records
        assert line.__dict__["reason"] == "the answer has the status 503"
        assert served.url not in caplog.text
        served.status = None
        # The same keys are no new ones: the verified clients stay.
        assert not await source.refreshed()
        assert (len(served.ranges), len(seen)) == (5, 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": b" " * (MAX_BYTES + 1)}, "larger than 256 KiB"),
        ({"content": b"{}"}, "it is no JWKS"),
        ({"content": jwks()}, "has no key"),
        ({"status": 302}, "status 302"),
        ({"break_after": 3}, "RemoteProtocolError"),
    ],
)
async def test_an_answer_that_is_refused_leaves_the_keys(
    change: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    now = [0.0]
    with serve(Served(jwks(ONE))) as served:
        source = JwksUrl(served.url, reads()[1], lambda: now[0])
        await source.seek()
        for name, value in change.items():
            setattr(served, name, value)
        now[0] = PAUSE_SECONDS
        await source.seek()
    assert source.keys is not None
    assert set(source.keys) == {("1", "ES256")}
    assert reason in caplog.records[-1].__dict__["reason"]


async def test_a_compressed_answer_is_refused_before_it_is_unpacked() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\n")
        await writer.drain()
        writer.close()

    await fails_with(answer, "the answer is compressed")


async def test_a_redirect_is_not_followed() -> None:
    paths: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        paths.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        moved = b"HTTP/1.1 302 Found\r\nLocation: /moved\r\nContent-Length: 0\r\n"
        writer.write(moved + b"Connection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    await fails_with(answer, "the answer has the status 302")
    assert paths == [b"/"]


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def test_a_server_that_hangs_ends_the_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FETCH_SECONDS", 0.3)
    await fails_with(hang, "no answer within 0.3 s")


async def test_a_request_waits_for_a_part_of_the_fetch_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.05)
    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        source = JwksUrl(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", reads()[1])
        await source.seek()
        fetch = source._fetching
        assert fetch
        fetch.cancel()
        await asyncio.wait({fetch})
    assert source.keys is None
    # Those of the service.
    assert (REQUEST_SECONDS, FETCH_SECONDS) == (2.0, 5.0)


async def fails_with(answer: Any, reason: str) -> None:
    """Check that a fetch from this server fails for the reason, and ends by itself."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        source = JwksUrl(f"http://127.0.0.1:{port}/", reads()[1])
        await source.seek()
        if source._fetching:
            await asyncio.wait({source._fetching})
    assert source.keys is None
    assert reason in source._fault


async def test_a_host_that_does_not_answer_is_a_failure_without_a_stack_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = JwksUrl("http://127.0.0.1:1/jwks", reads()[1])
    assert not await source.refreshed()
    (line,) = caplog.records
    assert line.exc_info is None
    assert json.dumps(line.__dict__["reason"]) == '"the request failed (ConnectError)"'
