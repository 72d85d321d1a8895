"""A connection of the service's HTTP protocol in memory, with an application of its own."""

import asyncio
import json
import re
from functools import partial
from typing import Any

from uvicorn import Config
from uvicorn.server import ServerState

from fraudops.settings import ClientAuthSettings, HttpSettings
from services.inference.failures import FailureLog
from services.inference.http.access_log import AccessLog
from services.inference.http.admin_auth import Admin
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


class WireApplication:
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


class WireTransport(asyncio.Transport):
    def __init__(self, port: int = 8000) -> None:
        super().__init__({"sockname": ("127.0.0.1", port)})
        self.written = b""
        self.closing, self.reading, self.ended = False, True, False
        # Whether it was aborted, and the bytes that its client has not taken.
        self.aborted, self.unread = False, 0

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True

    def get_write_buffer_size(self) -> int:
        return self.unread

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
    application: WireApplication,
    metrics: CountedConnections | None = None,
    cors: bool = False,
    port: int = 8000,
    admin_port: int | None = None,
    connections: Connections | None = None,
    clients: Authenticator | None = None,
) -> tuple[HttpProtocol, WireTransport]:
    counts: Any = metrics or CountedConnections()
    connections = connections or Connections(HttpSettings(), counts, 1000)
    connections.grace_seconds = 0.01
    parts = WorkerParts(
        application.fast_path,  # type: ignore[arg-type]
        connections,
        clients or Authenticator.of(ClientAuthSettings(), counts),
        AccessLog(False),
        FailureLog(),
        Admin(None, admin_port),
        cors,
    )
    http: Any = partial(HttpProtocol, parts)
    config = Config(application, http=http, lifespan="off", log_config=None)
    config.load()
    build: Any = config.http_protocol_class
    protocol = build(config=config, server_state=ServerState(), app_state={})
    assert isinstance(protocol, HttpProtocol)
    transport = WireTransport(port)
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


async def settle(turns: int = 5) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
