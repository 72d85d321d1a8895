"""Upgrades, refusals, limits and the end of a connection.

An upgrade of llhttp that accepts more must fail here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from services.inference.http.problems import HeadTooLargeError
from services.inference.http.request_head import MOST_HEADERS
from services.inference.http.wire_protocol import (
    DRY_BYTES,
    MOST_WAITING,
    SMALL_CHUNKS,
    WireProtocol,
)
from tests.support.http_wire import (
    BODY,
    CountedConnections,
    WireApplication,
    connect,
    request,
    settle,
)

H2C = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


def upgrading(more: bytes = b"") -> bytes:
    """Return a request that asks for HTTP/2, as curl and the JDK do, and has a body."""
    head = request(**{name.replace("-", "_"): value for name, value in H2C.items()})
    return head.replace(b"\r\n\r\n", b"\r\n" + more + b"\r\n", 1) if more else head


def chunked(whole: bytes) -> bytes:
    head = whole.partition(b"\r\n\r\n")[0]
    length = b"Content-Length: %d" % len(BODY)
    return head.replace(length, b"Transfer-Encoding: chunked") + b"\r\n\r\n" + CHUNKED


@pytest.mark.parametrize("encode", [bytes, chunked])
@pytest.mark.parametrize("cut", [1, 30, -len(CHUNKED), -5, None])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_request_for_another_protocol_is_answered_with_its_body(
    encode: Any, cut: int | None, times: int
) -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    whole = encode(upgrading()) * times
    for segment in (whole[:cut], whole[cut:] if cut else b""):
        if segment:
            protocol.data_received(segment)
            await settle()
    bodies = application.usual + [body for body, _ in application.taken]
    assert bodies == [BODY] * times
    assert set(transport.statuses) <= {200, 204}
    assert len(transport.statuses) == times
    for headers in application.headers:
        assert not headers.keys() & {b"upgrade", b"http2-settings", b"connection"}


async def test_the_body_of_an_upgrade_is_never_a_request() -> None:
    hidden = b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    head = upgrading().partition(b"\r\n\r\n")[0]
    head = head.replace(b"Content-Length: %d" % len(BODY), b"Content-Length: %d" % len(hidden))
    for cut in (len(head) + 4, None):
        application = WireApplication(willing=False)
        protocol, transport = connect(application)
        whole = head + b"\r\n\r\n" + hidden
        for segment in filter(None, (whole[:cut], whole[cut:] if cut else b"")):
            protocol.data_received(segment)
            await settle()
        assert application.usual == [hidden]
        assert transport.statuses == [204]


async def test_an_upgrade_keeps_what_else_the_connection_says() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    wanted = {"Connection": "close, Upgrade", "Upgrade": "websocket"}
    protocol.data_received(request(**wanted))
    await settle()
    assert application.headers[0][b"connection"] == b"close"
    assert transport.closing


async def test_connect_is_refused_and_nothing_after_it_is_read() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    protocol.data_received(b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n" + request())
    await settle()
    assert transport.statuses == [405]
    assert application.taken == application.usual == []


MALFORMED = {
    "two encodings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "gzip": b"Transfer-Encoding: gzip, chunked\r\n",
    "identity": b"Transfer-Encoding: chunked, identity\r\n",
    "no coding": b"Transfer-Encoding: xchunked\r\n",
    "both": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "two lengths": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "negative": b"Content-Length: -5\r\n",
    "signed": b"Content-Length: +5\r\n",
    "hexadecimal": b"Content-Length: 0x5\r\n",
    "folded": b"A: b\r\n c\r\n",
    "bare line feed": b"A: b\nContent-Length: 5\r\n",
    "bare carriage return": b"A: b\rContent-Length: 5\r\n",
    "zero byte": b"A: b\0c\r\n",
    "space before the colon": b"Content-Length : 5\r\n",
    "two credentials": b"Authorization: a\r\nAuthorization: b\r\n",
    "two keys": b"X-API-Key: a\r\nX-API-Key: b\r\n",
    "two hosts": b"Host: y\r\n",
}
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SMUGGLED = b"0\r\n\r\nPOST /reload HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("willing", [True, False])
@pytest.mark.parametrize("wish", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_head_that_two_servers_could_read_differently_is_refused(
    headers: bytes, wish: bytes, willing: bool
) -> None:
    application, metrics = WireApplication(willing), CountedConnections()
    protocol, transport = connect(application, metrics)
    protocol.data_received(HEAD + wish + headers + b"\r\n" + SMUGGLED)
    await settle()
    assert transport.statuses == [400]
    assert transport.ended
    assert metrics.refused == ["not_http"]
    assert application.taken == application.usual == []
    protocol.data_received(request())
    await settle()
    assert transport.statuses == [400]


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked",
        b"GET /\r\nA: b",
        b"GET / HTTP/2.0",
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"GET /a\xc3\xa9 HTTP/1.1",
        b"GET http:// HTTP/1.1",
        b"get / HTTP/1.1",
        b"GET / HTTP/1.1\r\nA: b",
    ],
)
async def test_what_is_not_http_1_is_refused(line: bytes) -> None:
    protocol, transport = connect(WireApplication())
    protocol.data_received(line + b"\r\n\r\n")
    await settle()
    assert transport.statuses == [400]


async def test_a_refusal_waits_for_earlier_answers() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    application.may_answer.clear()
    slow, bad = request("POST /predict?slow HTTP/1.1"), HEAD + b"A : b\r\n\r\n"
    protocol.data_received(request() + slow + request("POST /x HTTP/1.1") + bad + request())
    await settle()
    assert transport.statuses == [200]
    application.may_answer.set()
    await settle()
    assert transport.statuses == [200, 204, 204, 400]
    assert transport.ended
    fast, answered = connect(application)
    fast.data_received(request() + bad)
    assert answered.statuses == [200, 400]


@pytest.mark.parametrize("upgrade", [False, True])
async def test_only_some_requests_wait_on_one_connection(upgrade: bool) -> None:
    application, metrics = WireApplication(), CountedConnections()
    application.may_answer.clear()
    protocol, transport = connect(application, metrics)
    protocol.data_received(request("POST /predict?slow HTTP/1.1"))
    more = upgrading() if upgrade else request()
    protocol.data_received(more * 10_000)
    assert len(protocol.pipeline) == MOST_WAITING
    application.may_answer.set()
    await settle(5 * MOST_WAITING)
    assert transport.statuses == [204] * (MOST_WAITING + 1) + [503]
    assert transport.ended
    assert metrics.refused == ["too_many"]


async def test_a_fault_in_a_body_is_the_answer_of_its_request() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    protocol.data_received(head + b"2\r\n{}\r\n")
    await settle()
    protocol.data_received(b"zz\r\n" + request())
    await settle()
    assert transport.statuses == [400]
    assert [str(fault) for fault in application.faults] == [
        "the request is not accepted: it is malformed"
    ]
    assert transport.ended


async def test_trailers_are_dropped() -> None:
    application = WireApplication()
    protocol, _ = connect(application)
    whole = chunked(request()).removesuffix(b"\r\n") + b"Authorization: Bearer x\r\n\r\n"
    protocol.data_received(whole)
    await settle()
    assert application.usual == [BODY]
    assert b"authorization" not in application.headers[0]


@pytest.mark.parametrize("flood", [b"2;a=" + b"b" * 30_000, b"2\r\n{}\r\n0\r\nX: " + b"y" * 30_000])
async def test_a_flood_of_framing_is_cut_off(flood: bytes) -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    protocol.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + flood)
    await settle()
    for _ in range(5):
        protocol.data_received(b"z" * 30_000)
    await settle()
    assert transport.statuses == [400]
    assert "too little of a body" in str(application.faults[0])


@pytest.mark.parametrize(("size", "refused"), [(1, True), (40, False)])
async def test_a_body_has_no_thousands_of_tiny_chunks(size: int, refused: bool) -> None:
    whole = b"%x\r\n%b\r\n" % (size, b"z" * size) * (SMALL_CHUNKS + 100) + b"0\r\n\r\n"
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    for segments in ((head + whole,), (head, whole), (head, whole[:9000], whole[9000:])):
        application = WireApplication(willing=False)
        protocol, transport = connect(application)
        for segment in segments:
            protocol.data_received(segment)
        await settle()
        assert transport.statuses == [400 if refused else 204]
        assert bool(application.faults) == refused


async def test_heads_and_urls_have_limits_however_they_arrive() -> None:
    many = b"".join(b"X-%d: y\r\n" % number for number in range(101))
    large = b"X: " + b"y" * (17 << 10) + b"\r\n"
    url = b"GET /" + b"u" * (9 << 10) + b" HTTP/1.1\r\n"
    for whole, status, reason in (
        (HEAD + many + b"Content-Length: 0\r\n\r\n", 431, "head_too_large"),
        (HEAD + large + b"Content-Length: 0\r\n\r\n", 431, "head_too_large"),
        (url + b"\r\n", 414, "url_too_long"),
    ):
        for size in (len(whole), 1000):
            application, metrics = WireApplication(), CountedConnections()
            protocol, transport = connect(application, metrics)
            for start in range(0, len(whole), size):
                protocol.data_received(whole[start : start + size])
            await settle()
            assert transport.statuses == [status]
            assert metrics.refused == [reason]
            assert application.usual == []


async def test_headers_above_their_number_are_not_looked_at() -> None:
    """One segment has 64,000 of them, before or after a body."""
    flood = b"A:\r\n" * 64_000
    trailers = HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    for whole in (HEAD + flood, request() + HEAD + flood, trailers + flood):
        application = WireApplication()
        with delivered_headers() as names:
            protocol, transport = connect(application)
            protocol.data_received(whole)
            await settle()
        assert transport.statuses[-1] == 431 or type(application.faults[0]) is HeadTooLargeError
        assert len(names) <= 2 * MOST_HEADERS
    assert application.usual == []


async def test_the_first_fault_of_a_body_is_the_answer() -> None:
    """A flood of trailers is also too much without a body, and its client may hang up."""
    application = WireApplication()
    protocol, _ = connect(application)
    protocol.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n")
    protocol.data_received(b"A: b\r\n" * (DRY_BYTES // 5))
    protocol.eof_received()
    await settle()
    assert [type(fault) for fault in application.faults] == [HeadTooLargeError]


@contextmanager
def delivered_headers() -> Iterator[list[bytes]]:
    """Yield the names of the headers that the parser delivers."""
    names: list[bytes] = []
    method = WireProtocol.on_header

    def counted(protocol: WireProtocol, name: bytes, value: bytes) -> None:
        names.append(name)
        method(protocol, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WireProtocol, "on_header", counted)
        yield names


async def test_a_head_at_its_limit_is_answered_behind_a_large_body() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    head = request("POST /a HTTP/1.1", X="y" * (15 << 10))
    length = b"Content-Length: %d" % len(BODY)
    body = request("POST /b HTTP/1.1").replace(length, b"Content-Length: 50000")
    body = body.removesuffix(BODY) + b" " * 50_000
    for cut in (None, len(body) + 2000, len(body) + 14_000):
        protocol.data_received((body + head)[:cut])
        if cut:
            protocol.data_received((body + head)[cut:])
        await settle()
    assert transport.statuses == [204] * 6


@pytest.mark.parametrize("cors", [False, True])
async def test_an_origin_leaves_the_fast_path_if_pages_may_call(cors: bool) -> None:
    application = WireApplication()
    protocol, _ = connect(application, cors=cors)
    protocol.data_received(request(Origin="https://a.example"))
    await settle()
    assert len(application.taken) == (not cors)
