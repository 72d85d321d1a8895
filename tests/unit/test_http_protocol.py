"""Requests that take the fast path, with uvicorn's own protocol around it.

An upgrade of uvicorn that disables the fast path must fail here.
"""

import asyncio
import json
import re
from functools import partial
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from services.inference.http.protocol import FastPathProtocol
from tests.support.serving import ULB_ROW

BODY = json.dumps(ULB_ROW).encode()
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
        self.waiting: list[tuple[FastPathProtocol, str]] = []
        self.usual: list[bytes] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["query_string"] == b"slow":
            await self.may_answer.wait()
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.usual.append(body)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def submit(
        self, caller: FastPathProtocol, body: bytes, request_id: str | None, started: float
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
        self.closing, self.reading = False, True

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


def connect(application: Application) -> tuple[FastPathProtocol, Transport]:
    http: Any = partial(FastPathProtocol, application.fast_path)
    config = Config(application, http=http, lifespan="off", log_config=None)
    config.load()
    build: Any = config.http_protocol_class
    protocol = build(config=config, server_state=ServerState(), app_state={})
    assert isinstance(protocol, FastPathProtocol)
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
    assert transport.closing
    assert transport.written.startswith(b"HTTP/1.1 200 OK")


async def test_a_disconnected_client_gets_no_answer() -> None:
    application = Application()
    protocol, transport = connect(application)
    protocol.data_received(request())
    transport.closing = True
    protocol.connection_lost(None)
    await settle()
    assert transport.written == b""
