"""The HTTP protocol of the service: that of the wire, with a fast path for /predict.

A request takes the fast path if it arrives in one piece, as small bodies do, and has no unusual
header. The fast path has no task and no ASGI messages. The dispatcher answers any
other request. tests/contract hold both to the same answers.
"""

import asyncio
from dataclasses import dataclass
from time import perf_counter, time
from typing import Any

from services.inference.failures import FailureLog
from services.inference.http.access_log import AccessLog
from services.inference.http.admin_auth import Admin
from services.inference.http.bodies import SINGLE_BYTES
from services.inference.http.client_auth.authenticator import (
    Authenticator,
    VerifiedClient,
)
from services.inference.http.connections import Connections
from services.inference.http.fast_path import PREDICT, FastPath
from services.inference.http.media import is_json
from services.inference.http.problems import Headers
from services.inference.http.request_head import HEAD_BYTES
from services.inference.http.request_headers import request_id as id_of
from services.inference.http.request_headers import timeout_seconds, traceparent
from services.inference.http.wire_protocol import WireProtocol

_PATH = PREDICT.encode()
# What the fast path does with a header; it ignores all others.
UNUSUAL, MEDIA, ID, CONNECTION, CREDENTIAL, TRACE, TIMEOUT, ORIGIN, HOST = range(9)
_HEADERS = {
    b"host": HOST,
    b"expect": UNUSUAL,
    b"transfer-encoding": UNUSUAL,
    b"upgrade": UNUSUAL,
    b"content-encoding": UNUSUAL,
    b"content-type": MEDIA,
    b"x-request-id": ID,
    b"connection": CONNECTION,
    b"authorization": CREDENTIAL,
    b"x-api-key": CREDENTIAL,
    b"traceparent": TRACE,
    b"x-request-timeout-ms": TIMEOUT,
    b"origin": ORIGIN,
}
_meaning = _HEADERS.get


@dataclass(frozen=True)
class WorkerParts:
    """What the connections of one worker share. `cors`: some pages' origins are allowed."""

    fast_path: FastPath
    connections: Connections
    clients: Authenticator
    access_log: AccessLog
    failures: FailureLog
    admin: Admin
    cors: bool


class HttpProtocol(WireProtocol):
    """A connection whose usual requests take the fast path.

    `_body` is set while such a request arrives, and `_waits` while its answer is due within this
    turn of the loop. `_remembered` is the last credential that was valid, and its client: most
    connections have one client.
    """

    def __init__(self, parts: WorkerParts, *arguments: Any, **options: Any) -> None:
        super().__init__(parts.connections, parts.failures, *arguments, **options)
        self._fast_path, self._clients = parts.fast_path, parts.clients
        self._access_log, self._cors = parts.access_log, parts.cors
        self._body: bytes | None = None
        self._waits = False
        self._request_id: str | None = None
        self._client: VerifiedClient | None = None
        self._remembered: tuple[bytes, VerifiedClient] | None = None
        self._traceparent: bytes | None = None
        self._deadline: float | None = None
        self._received = 0.0
        self._server_headers: tuple[Any, bytes] = (None, b"")
        self._admin = parts.admin
        # None on the admin port, which has no predictions.
        self._fast_url: bytes | None = None

    @property
    def busy(self) -> bool:
        return self._waits or super().busy

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._fast_url = None if self._admin.port_of(self.server) == "admin" else _PATH

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._body is not None:
            self._leave_fast_path(self._body)

    def answer_waiting(self) -> None:
        if self._waits:
            self._fast_path.flush()

    def on_headers_complete(self) -> None:
        if self.url == self._fast_url and self._is_free() and self._is_usual():
            self._in_head, self._body = False, b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._body is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, None
        if body is None:
            super().on_message_complete()
            return
        self._received, self._waits = perf_counter(), True
        client = self._client
        if len(body) > SINGLE_BYTES or not self._fast_path.submit(
            self,
            body,
            self._request_id,
            self._received,
            client.name if client else None,
            self._deadline,
        ):
            self._waits = False
            self._leave_fast_path(body)
            super().on_message_complete()
        elif client and client.bucket is not None:
            # Not before: a request that leaves the fast path is charged by `verify`.
            self._clients.charge(client.name, 1)

    def reply(self, status: int, headers: Headers, body: bytes, request_id: str) -> None:
        """Write the whole answer, unless the client has closed the connection."""
        self._waits = False
        if self.transport.is_closing():
            return
        if self._traceparent:
            headers = [*headers, (b"traceparent", self._traceparent)]
        self.write_answer(status, headers, body, request_id)
        if self._access_log.enabled:
            seconds = perf_counter() - self._received
            self._access_log.write(
                *("POST", PREDICT, status, seconds, len(body)),
                *(request_id, self._client.name if self._client else None, self._traceparent),
            )
        self.on_response_complete()

    def _is_free(self) -> bool:
        """Return whether no request is in progress here, and the client reads its answers."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and not self._leaving
            and self._head_bytes <= HEAD_BYTES
        )

    def _is_usual(self) -> bool:
        parser = self.parser
        # Cheaper than the version: HTTP/1.0 keeps a connection only if `Connection` asks for it.
        if parser.get_method() != b"POST" or not parser.should_keep_alive():
            return False
        # This loop takes no head that `check_headers` refuses.
        typed, hosts, credential = False, 0, None
        self._request_id = self._client = self._traceparent = self._deadline = None
        for name, value in self.headers:
            meaning = _meaning(name)
            if meaning is None:
                continue
            if meaning == HOST:
                hosts += 1
            elif meaning == MEDIA:
                typed = is_json(value)
            elif meaning == CONNECTION:
                if value.lower() != b"keep-alive" or parser.get_http_version() != "1.1":
                    return False
            elif meaning == ID:
                self._request_id = id_of(value)
            elif meaning == CREDENTIAL:
                if credential is not None:
                    return False
                credential = value
            elif meaning == TRACE:
                self._traceparent = traceparent(value)
            elif meaning == TIMEOUT:
                seconds = timeout_seconds(value)
                self._deadline = perf_counter() + seconds if seconds else None
            elif meaning == UNUSUAL or self._cors:
                return False
        return typed and hosts == 1 and self._is_admitted(credential)

    def _is_admitted(self, credential: bytes | None) -> bool:
        """Return whether the client is known already, or needs no credential."""
        if not self._clients.enabled:
            return True
        if credential is None:
            return not self._clients.required
        now = time()
        if self._remembered and self._remembered[0] == credential:
            client = self._remembered[1]
            if now < client.expires and client.bucket is None:
                self._client = client
                return True
        self._client = self._clients.known(credential, "predict", now)
        if self._client is None:
            return False
        self._remembered = credential, self._client
        return True

    def _leave_fast_path(self, body: bytes) -> None:
        """Begin the request again as a usual one, with what has arrived of its body."""
        self._body = None
        self._begin(b"POST", "1.1")
        if body:
            super().on_body(body)

    def _defaults(self) -> bytes:
        """The server's own headers; uvicorn makes a new list each second."""
        known, encoded = self._server_headers
        current = self.server_state.default_headers
        if known is not current:
            encoded = super()._defaults()
            self._server_headers = current, encoded
        return encoded
