"""The HTTP protocol of a connection: the fast path, upgrades, refusals and the end.

An upgrade of uvicorn or llhttp that changes them must fail here.
"""

import asyncio
import json
import re
from functools import partial
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from fraudops.settings import ClientAuthSettings, HttpSettings
from services.inference.failures import FailureLog
from services.inference.http import wire_protocol
from services.inference.http.access_log import AccessLog
from services.inference.http.client_auth.authenticator import Authenticator
from services.inference.http.connections import Connections
from services.inference.http.protocol import HttpProtocol, WorkerParts
from tests.support.serving import ULB_ROW

BODY = json.dumps(ULB_ROW).encode()
CLOSE = (b"connection", b"close")
HEADERS = {
    "Host": "x",
    "User-Agent": "a client",
    "Accept": "*/*",
    "Content-Type": "application/json",
    "Content-Length": str(len(BODY)),
}


class Application:
    """An application that answers 204 on the usual path, and its own fast path.

    `taken` holds the requests of the fast path, `usual` the bodies of the others.
    """

    def __init__(self, willing: bool = True) -> None:
        self.fast_path, self.willing = self, willing
        self.taken: list[tuple[bytes, str | None]] = []
        self.waiting: list[tuple[HttpProtocol, str]] = []
        self.usual: list[bytes] = []
        self.headers: list[dict[bytes, bytes]] = []
        self.faults: list[Exception] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["raw_path"].endswith(b"?slow"):
            await self.may_answer.wait()
        body, more = b"", True
        while more:
            message = await receive()
            if fault := scope["state"]["arrival"].fault:
                self.faults.append(fault)
                await send({"type": "http.response.start", "status": 400, "headers": [CLOSE]})
                await send({"type": "http.response.body", "body": b""})
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.usual.append(body)
        self.headers.append(dict(scope["headers"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def submit(
        self,
        caller: HttpProtocol,
        body: bytes,
        request_id: str | None,
        received: float,
        client: str | None,
        deadline: float | None,
    ) -> bool:
        if self.willing:
            self.taken.append((body, request_id))
            self.waiting.append((caller, request_id or "made"))
            asyncio.get_running_loop().call_soon(self.flush)
        return self.willing

    def flush(self) -> None:
        waiting, self.waiting = self.waiting, []
        for caller, request_id in waiting:
            caller.reply(200, [], b"fast", request_id)


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing, self.reading, self.ended = False, True, False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    @property
    def statuses(self) -> list[int]:
        return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", self.written)]


class CountedConnections:
    """Metrics that remember the refused connections."""

    def __init__(self) -> None:
        self.refused: list[str] = []

    def connections(self, number: int) -> None: ...

    def answered(self, *_: object) -> None: ...

    def connection_refused(self, reason: str) -> None:
        self.refused.append(reason)


def connect(
    application: Application, metrics: CountedConnections | None = None, cors: bool = False
) -> tuple[HttpProtocol, Transport]:
    counts: Any = metrics or CountedConnections()
    connections = Connections(HttpSettings(), counts, 1000)
    connections.grace_seconds = 0.01
    parts = WorkerParts(
        application.fast_path,  # type: ignore[arg-type]
        connections,
        Authenticator.of(ClientAuthSettings(), counts),
        AccessLog(False),
        FailureLog(),
        cors,
    )
    http: Any = partial(HttpProtocol, parts)
    config = Config(application, http=http, lifespan="off", log_config=None)
    config.load()
    build: Any = config.http_protocol_class
    protocol = build(config=config, server_state=ServerState(), app_state={})
    assert isinstance(protocol, HttpProtocol)
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


def request(line: str = "POST /predict HTTP/1.1", **changed: str) -> bytes:
    headers = HEADERS | {name.replace("_", "-"): value for name, value in changed.items()}
    return (
        "\r\n".join(
            [line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        ).encode()
        + BODY
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_every_usual_request_in_one_piece_takes_the_fast_path() -> None:
    application = Application()
    protocol, transport = connect(application)
    for number in range(3):
        protocol.data_received(
            request(X_Request_Id=f"r-{number}", Connection="keep-alive", traceparent="00-1")
        )
        await settle()
    assert application.taken == [(BODY, f"r-{number}") for number in range(3)]
    assert transport.written.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert transport.written.endswith(b"content-length: 4\r\nx-request-id: r-2\r\n\r\nfast")
    assert protocol.server_state.total_requests == 3
    assert application.usual == []


@pytest.mark.parametrize(
    "unusual",
    [
        request("POST /predict?debug=1 HTTP/1.1"),
        request("POST /predict/batch HTTP/1.1"),
        request("PUT /predict HTTP/1.1"),
        request("POST /predict HTTP/1.0"),
        request(Connection="close"),
        request(Content_Type="text/plain"),
        request(Expect="100-continue"),
        request(Upgrade="h2c"),
    ],
)
async def test_an_unusual_request_reaches_the_application_with_its_body(unusual: bytes) -> None:
    application = Application()
    protocol, _ = connect(application)
    protocol.data_received(unusual)
    await settle()
    assert (application.taken, application.usual) == ([], [BODY])


async def test_a_request_in_pieces_or_declined_reaches_the_application_complete() -> None:
    application, refusing = Application(), Application(willing=False)
    for cut in (3, 60, len(request()) - 5):
        protocol, _ = connect(application)
        protocol.data_received(request()[:cut])
        protocol.data_received(request()[cut:])
        await settle()
    protocol, transport = connect(refusing)
    protocol.data_received(request())
    await settle()
    assert refusing.usual == [BODY]
    assert transport.written.startswith(b"HTTP/1.1 204")
    # Cut within its head, the body still arrives in one piece.
    assert application.usual == [BODY]
    assert application.taken == [(BODY, None)] * 2


async def test_a_client_that_does_not_read_its_answers_leaves_the_fast_path() -> None:
    application = Application()
    protocol, _ = connect(application)
    protocol.pause_writing()
    protocol.data_received(request())
    await settle()
    assert application.taken == []
    protocol.resume_writing()
    await settle()


async def test_pipelined_answers_keep_their_order_on_both_paths() -> None:
    application = Application()
    protocol, transport = connect(application)
    application.may_answer.clear()
    slow, quick = request("POST /predict?slow HTTP/1.1"), request("POST /predict?quick HTTP/1.1")
    protocol.data_received(request() + slow + quick + request())
    await settle()
    assert transport.written.count(b"HTTP/1.1") == 1, "nothing may pass the slow one"
    application.may_answer.set()
    await settle()
    assert re.findall(rb"HTTP/1.1 (\d+)", transport.written) == [b"200", b"204", b"204", b"204"]


async def test_a_server_that_stops_answers_waiting_requests_first() -> None:
    application = Application()
    protocol, transport = connect(application)
    protocol.data_received(request())
    protocol.shutdown()
    assert transport.statuses == [200]


async def test_an_idle_connection_of_a_stopping_server_answers_once_more() -> None:
    application = Application()
    protocol, transport = connect(application)
    protocol.data_received(request())
    await settle()
    protocol.shutdown()
    assert not transport.closing
    protocol.data_received(request())
    await settle()
    assert transport.statuses == [200, 204]
    assert transport.closing
    assert b"connection: close" in transport.written
    quiet, silent = connect(application)
    quiet.shutdown()
    assert not silent.closing
    await asyncio.sleep(0.1)
    assert silent.closing


async def test_a_disconnected_client_gets_no_answer() -> None:
    application = Application()
    protocol, transport = connect(application)
    protocol.data_received(request())
    transport.closing = True
    protocol.connection_lost(None)
    await settle()
    assert transport.written == b""


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
    application = Application()
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
    hidden = b"POST /reload HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
    head = upgrading().partition(b"\r\n\r\n")[0]
    head = head.replace(b"Content-Length: %d" % len(BODY), b"Content-Length: %d" % len(hidden))
    for cut in (len(head) + 4, None):
        application = Application(willing=False)
        protocol, transport = connect(application)
        whole = head + b"\r\n\r\n" + hidden
        for segment in filter(None, (whole[:cut], whole[cut:] if cut else b"")):
            protocol.data_received(segment)
            await settle()
        assert application.usual == [hidden]
        assert transport.statuses == [204]


async def test_an_upgrade_keeps_what_else_the_connection_says() -> None:
    application = Application()
    protocol, transport = connect(application)
    wanted = {"Connection": "close, Upgrade", "Upgrade": "websocket"}
    protocol.data_received(request(**wanted))
    await settle()
    assert application.headers[0][b"connection"] == b"close"
    assert transport.closing


async def test_connect_is_refused_and_nothing_after_it_is_read() -> None:
    application = Application()
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
}
HEAD = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SMUGGLED = b"0\r\n\r\nPOST /reload HTTP/1.1\r\n\r\n"


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_head_that_two_servers_could_read_differently_is_refused(headers: bytes) -> None:
    application, metrics = Application(), CountedConnections()
    protocol, transport = connect(application, metrics)
    protocol.data_received(HEAD + headers + b"\r\n" + SMUGGLED)
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
    ],
)
async def test_what_is_not_http_1_is_refused(line: bytes) -> None:
    protocol, transport = connect(Application())
    protocol.data_received(line + b"\r\n\r\n")
    await settle()
    assert transport.statuses == [400]


async def test_a_refusal_waits_for_earlier_answers() -> None:
    application = Application()
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


async def test_a_fault_in_a_body_is_the_answer_of_its_request() -> None:
    application = Application()
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
    application = Application()
    protocol, _ = connect(application)
    whole = chunked(request()).removesuffix(b"\r\n") + b"Authorization: Bearer x\r\n\r\n"
    protocol.data_received(whole)
    await settle()
    assert application.usual == [BODY]
    assert b"authorization" not in application.headers[0]


@pytest.mark.parametrize("flood", [b"2;a=" + b"b" * 30_000, b"2\r\n{}\r\n0\r\nX: " + b"y" * 30_000])
async def test_a_flood_of_framing_is_cut_off(flood: bytes) -> None:
    application = Application()
    protocol, transport = connect(application)
    protocol.data_received(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + flood)
    await settle()
    for _ in range(5):
        protocol.data_received(b"z" * 30_000)
    await settle()
    assert transport.statuses == [400]
    assert "too little of a body" in str(application.faults[0])


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
            application, metrics = Application(), CountedConnections()
            protocol, transport = connect(application, metrics)
            for start in range(0, len(whole), size):
                protocol.data_received(whole[start : start + size])
            await settle()
            assert transport.statuses == [status]
            assert metrics.refused == [reason]
            assert application.usual == []


async def test_a_head_at_its_limit_is_answered_behind_a_large_body() -> None:
    application = Application()
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


async def test_a_connection_that_lingers_discards_and_then_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire_protocol, "LINGER_SECONDS", 0.05)
    protocol, transport = connect(Application())
    protocol.data_received(b"nonsense\r\n\r\n")
    assert (transport.statuses, transport.ended, transport.closing) == ([400], True, False)
    await asyncio.sleep(0.2)
    assert transport.closing
    other, flooded = connect(Application())
    other.data_received(b"nonsense\r\n\r\n")
    for _ in range(33):
        other.data_received(b"x" * (1 << 20))
    assert flooded.closing


async def test_a_client_that_has_sent_all_still_gets_its_answer() -> None:
    application = Application()
    application.may_answer.clear()
    protocol, transport = connect(application)
    protocol.data_received(request("POST /predict?slow HTTP/1.1"))
    await settle()
    assert protocol.eof_received()
    application.may_answer.set()
    await settle()
    assert transport.statuses == [204]
    assert transport.closing
    cut, answered = connect(application)
    cut.data_received(request("POST /b HTTP/1.1")[:-5])
    await settle()
    assert cut.eof_received()
    await settle()
    assert answered.statuses == [400]
    idle, _ = connect(application)
    assert not idle.eof_received()


@pytest.mark.parametrize("cors", [False, True])
async def test_an_origin_leaves_the_fast_path_if_pages_may_call(cors: bool) -> None:
    application = Application()
    protocol, _ = connect(application, cors=cors)
    protocol.data_received(request(Origin="https://a.example"))
    await settle()
    assert len(application.taken) == (not cors)
