"""uvicorn's HTTP protocol for clients that may be hostile.

Only llhttp, uvicorn's cycles and its list of connections are used as they are. A request that two
servers could read differently, or that is too large or too slow, is refused here. A refusal waits
for the answers of earlier requests on the connection.
"""

import asyncio
from time import perf_counter
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from fraudops.errors import FraudopsError
from fraudops.ids import uuid7
from services.inference.failures import FailureLog
from services.inference.http.bodies import Arrival
from services.inference.http.connections import UNREAD_SECONDS, Connections
from services.inference.http.problems import (
    CutOffError,
    Headers,
    NotHttpError,
    SlowHeadError,
    WrongMethodError,
    error_response,
)
from services.inference.http.request_head import (
    HEAD_BYTES,
    check_headers,
    check_size,
    path_of,
    size_of,
    without_upgrade,
)

LINGER_SECONDS, LINGER_BYTES = 1.0, 32 << 20
# Chunk sizes, extensions and trailers without a byte of the body between them.
DRY_BYTES = 64 << 10


class CycleTransport:
    """The transport of one cycle, which closes the connection in the protocol's way."""

    def __init__(self, protocol: "WireProtocol", arrival: Arrival) -> None:
        self._protocol, self._arrival = protocol, arrival
        self.write, self.is_closing = protocol.transport.write, protocol.transport.is_closing

    def close(self) -> None:
        if self._arrival.received is None:
            self._protocol.linger()
        else:
            self._protocol.close()


class WireProtocol(HttpToolsProtocol):
    """A connection, its parser, and the stage in which it is.

    `due` is the end of the stage, as a time of perf_counter. `unread_since` is set while the client
    does not read its answers, and `answered` after the first answer.
    """

    def __init__(
        self, connections: Connections, failures: FailureLog, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._connections, self._failures = connections, failures
        self._limits = connections.limits
        self.due = perf_counter() + self._limits.idle_seconds
        self.unread_since: float | None = None
        self.answered = False
        self.url = b""
        # Of the head that arrives now: whether it began in this segment, and its bytes at most.
        self._in_head = self._fresh_head = False
        self._head_bytes = 0
        # A head without its wish for another protocol, to be parsed again.
        self._replay: bytes | None = None
        # Of the body that arrives now.
        self._arrival: Arrival | None = None
        self._dry_bytes = 0
        self._running: RequestResponseCycle | None = None
        self._refusal: Exception | None = None
        # Input is thrown away; the connection closes; the server stops; the client has sent all.
        self._deaf = self._closing = self._leaving = self._ended = False
        self._discarded = 0

    def answer_waiting(self) -> None:
        """Answer a request that waits for the end of this turn of the loop."""

    # -- what the registry of connections calls

    @property
    def busy(self) -> bool:
        """Whether a request is answered, or is to be."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def idle(self) -> bool:
        return not (self.busy or self._in_head or self._closing)

    def expire(self, now: float) -> None:
        if self.unread_since is not None and now - self.unread_since >= UNREAD_SECONDS:
            self.abort()
        elif self.due > now:
            return
        elif self._closing:
            self.abort()
        elif not self.busy and self._in_head:
            self.refuse(SlowHeadError(self._limits.head_seconds))
        elif not self.busy:
            self.close()

    def close(self) -> None:
        self._closing = self._deaf = True
        self.due = perf_counter() + UNREAD_SECONDS
        if not self.transport.is_closing():
            self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    # -- what the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._connections.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.closed(self)
        self._closing = self._deaf = True
        # uvicorn knows the last cycle only, and an earlier one may still run.
        if self._running and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discard(len(data))
            return
        if self._arrival is not None:
            self._arrival.split = True
            self._arrival.wire_bytes += len(data)
            self._dry_bytes += len(data)
        self._head_bytes = self._head_bytes + len(data) if self._in_head else len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            self._feed_again(memoryview(data)[pause.args[0] :])
        except httptools.HttpParserError as error:
            self._reject(error)
        if self._in_head:
            self._check_partial_head()
        elif self._arrival is not None:
            self._check_partial_body(self._arrival)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that waits for its answer and sends nothing more."""
        self.answer_waiting()
        self._ended = True
        if self._closing or not self.busy:
            return False
        if self._arrival is not None:
            self._fail_body(CutOffError())
        self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        self.unread_since = perf_counter()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.unread_since = None
        super().resume_writing()

    # -- what the parser calls

    def on_message_begin(self) -> None:
        self.answer_waiting()
        self.url, self.headers = b"", []
        self._in_head = self._fresh_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        # After the head come trailers. They could change what the head has said.
        if self._in_head:
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        # An error leaves the parser here, and `_reject` answers it.
        parser, method = self.parser, self.parser.get_method()
        large = self._head_bytes > HEAD_BYTES
        size = size_of(self.url, self.headers) if large else self._head_bytes
        check_size(self.url, self.headers, size)
        version = parser.get_http_version()
        if parser.should_upgrade():
            if method == b"CONNECT":
                raise WrongMethodError("GET, HEAD, OPTIONS, POST, PUT")
            self._replay = without_upgrade(method, self.url, version, self.headers)
            return
        check_headers(version, self.headers)
        self._begin(method, version)

    def on_body(self, body: bytes) -> None:
        self._dry_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._replay is not None:
            return
        if self._arrival is not None:
            self._arrival.received = perf_counter()
            self._arrival = None
        super().on_message_complete()

    # -- what uvicorn's server and cycles call

    def shutdown(self) -> None:
        """Close soon. An idle connection has a grace period: its client may be about to send."""
        self.answer_waiting()
        self._leaving = True
        if self.busy:
            self.cycle.keep_alive = False
        elif not self._closing:
            self.loop.call_later(self._connections.grace_seconds, self._leave)

    def on_response_complete(self) -> None:
        self.answered = True
        self.server_state.total_requests += 1
        if self._closing or self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.resume_reading()
            self._start_asgi_task(*self.pipeline.pop())
        elif self._refusal:
            self._write_refusal(self._refusal)
        elif self._ended or self._leaving:
            self.close()
        else:
            self.flow.resume_reading()
            limits = self._limits
            stage = limits.head_seconds if self._in_head else limits.idle_seconds
            self.due = perf_counter() + stage

    # -- refusals

    def refuse(self, error: Exception) -> None:
        """Answer with an error, after the earlier answers, and close."""
        self._deaf, self._in_head = True, False
        self.answer_waiting()
        if self.busy:
            self._refusal = error
            self.flow.pause_reading()
        else:
            self._write_refusal(error)

    def linger(self) -> None:
        """Close after a moment: a client that still sends could lose the answer by a reset."""
        if self._closing or self.transport.is_closing():
            return
        if self._ended:
            self.close()
            return
        self._closing = self._deaf = True
        self.due = perf_counter() + UNREAD_SECONDS
        self.flow.resume_reading()
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.close)

    def write_answer(self, status: int, headers: Headers, body: bytes, request_id: str) -> None:
        """Write a whole answer, without a cycle."""
        lines = b"".join([b"%b: %b\r\n" % header for header in headers])
        ending = b"content-length: %d\r\nx-request-id: %b\r\n\r\n" % (
            len(body),
            request_id.encode(),
        )
        self.transport.write(b"".join((STATUS_LINE[status], self._defaults(), lines, ending, body)))

    def _defaults(self) -> bytes:
        """The server's own headers."""
        return b"".join([b"%b: %b\r\n" % header for header in self.server_state.default_headers])

    def _write_refusal(self, error: Exception) -> None:
        status, headers, body = error_response(error, self.url.decode("latin-1"))
        self._connections.refused(error, status)
        if not self.transport.is_closing():
            self.write_answer(status, [*headers, (b"connection", b"close")], body, uuid7())
            self.linger()

    def _reject(self, error: httptools.HttpParserError) -> None:
        """Refuse what the parser did not accept, or what a callback raised."""
        raised = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
        refusal: Exception = NotHttpError("it is malformed")
        if isinstance(raised, Exception) and not isinstance(raised, httptools.HttpParserError):
            refusal = raised
            if not isinstance(raised, FraudopsError):
                self._failures.note(raised)
        if self._arrival is not None:
            self._fail_body(refusal)
        else:
            self.refuse(refusal)

    def _fail_body(self, error: Exception) -> None:
        """Let the answer of the request whose body arrives be an error."""
        self._deaf = True
        assert self._arrival
        self._arrival.fault = error
        self.cycle.message_event.set()

    def _check_partial_head(self) -> None:
        if self._fresh_head:
            self._fresh_head = False
            # The segment may have held more before it.
            self._head_bytes = size_of(self.url, self.headers)
            if not self.busy:
                self.due = perf_counter() + self._limits.head_seconds
        try:
            check_size(self.url, self.headers, self._head_bytes)
        except FraudopsError as error:
            self.refuse(error)

    def _check_partial_body(self, arrival: Arrival) -> None:
        if arrival.wire_bytes > arrival.most_wire_bytes or self._dry_bytes > DRY_BYTES:
            self._fail_body(NotHttpError("its chunks have too little of a body"))

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self.close()

    def _leave(self) -> None:
        if not self.busy and not self._closing:
            self.close()

    # -- the begin of a request

    def _feed_again(self, rest: memoryview) -> None:
        """Parse a head without its wish for another protocol, then the rest of the segment."""
        try:
            while self._replay is not None:
                head, self._replay = self._replay, None
                # The old one reads nothing more after `Connection: close`.
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
                self.parser.feed_data(head)
                try:
                    self.parser.feed_data(rest)
                except httptools.HttpParserUpgrade as pause:
                    # The rest holds another request with such a wish.
                    rest = rest[pause.args[0] :]
        except httptools.HttpParserError as error:
            self._reject(error)

    def _begin(self, method: bytes, version: str) -> None:
        """Start a cycle for the request whose head is complete, or queue it."""
        path = path_of(self.url)
        self._in_head = False
        self._arrival, self._dry_bytes = Arrival(perf_counter()), 0
        expects = version == "1.1" and any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in self.headers
        )
        self.scope = self._scope(method, version, path, self._arrival)
        earlier, self.cycle = (
            self.cycle,
            RequestResponseCycle(
                scope=self.scope,
                transport=cast(Any, CycleTransport(self, self._arrival)),
                flow=self.flow,
                logger=self.logger,
                access_logger=self.access_logger,
                access_log=False,
                default_headers=self.server_state.default_headers,
                message_event=asyncio.Event(),
                expect_100_continue=expects,
                keep_alive=version == "1.1"
                and self.parser.should_keep_alive()
                and not self._leaving,
                on_response=self.on_response_complete,
            ),
        )
        if earlier is None or earlier.response_complete:
            self._start_asgi_task(self.cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _scope(self, method: bytes, version: str, path: str, arrival: Arrival) -> Any:
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": method.decode("ascii"),
            "scheme": self.scheme,
            "path": path,
            "raw_path": self.url,
            "query_string": b"",
            "root_path": "",
            "headers": self.headers,
            "server": self.server,
            "client": self.client,
            "state": {"arrival": arrival},
        }

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)
