"""The parser of a connection, for clients that may be hostile.

llhttp and uvicorn's cycles are used as they are. A request that two servers could read differently,
or that is too large, is refused here. A request for another protocol (`Upgrade`) is ignored.
"""

import asyncio
from time import perf_counter
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from fraudops.errors import FraudopsError
from services.inference.failures import FailureLog
from services.inference.http.bodies import Arrival
from services.inference.http.client_connection import ClientConnection, CycleTransport
from services.inference.http.connections import Connections
from services.inference.http.problems import (
    CutOffError,
    HeadTooLargeError,
    NotHttpError,
    TooManyWaitingError,
    WrongMethodError,
)
from services.inference.http.request_head import (
    HEAD_BYTES,
    MOST_HEADERS,
    check_headers,
    check_size,
    partial_size_of,
    path_of,
    size_of,
    without_upgrade,
)

# Chunk sizes, extensions and trailers without a byte of the body between them.
DRY_BYTES = 64 << 10
# Chunks that may be small. With more of them, all have at least CHUNK_BYTES each on average and on
# the wire: a chunk costs a call, however few bytes it has.
SMALL_CHUNKS, CHUNK_BYTES = 2048, 20
# Requests that wait behind another one. Each takes a hundred times the memory of its bytes.
MOST_WAITING = 32
_TOO_LITTLE = "its chunks have too little of a body"


class WireProtocol(ClientConnection):
    """A connection and its parser."""

    def __init__(
        self, connections: Connections, failures: FailureLog, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(connections, *arguments, **options)
        self._failures = failures
        # Of the head that arrives now: whether it began in this segment, its bytes at most and at
        # least, and of how many requests this segment has a part.
        self._fresh_head = False
        self._head_bytes = self._least_head_bytes = self._parts = 0
        # A head without its `Upgrade`, to be parsed again.
        self._replay: bytes | None = None
        # Of the body that arrives now.
        self._dry_bytes = self._trailers = self._chunks = self._first_bytes = 0

    # -- what the transport calls

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._discard(len(data))
            return
        if self._arrival is not None:
            self._arrival.split = True
            self._arrival.wire_bytes += len(data)
            self._dry_bytes += len(data)
        self._parts = 0 if self._arrival is None and not self._in_head else 1
        self._head_bytes = self._head_bytes + len(data) if self._in_head else len(data)
        rest = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            rest = memoryview(data)[pause.args[0] :]
        except httptools.HttpParserError as error:
            self._reject(error)
        if rest is not None:
            # Not above: this exception would be the context of a refusal, in place of its cause.
            self._feed_again(rest)
        if self._in_head:
            self._check_partial_head(data)
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

    # -- what the parser calls

    def on_message_begin(self) -> None:
        self.answer_waiting()
        self.url, self.headers = b"", []
        self._in_head = self._fresh_head = True
        self._parts += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self.headers.append((name.lower(), value))
            if len(self.headers) <= MOST_HEADERS:
                return
        else:
            # Trailers are dropped: they could change what the head has said.
            self._trailers += 1
            if self._trailers <= MOST_HEADERS:
                return
        raise HeadTooLargeError(HEAD_BYTES, MOST_HEADERS)

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

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > SMALL_CHUNKS and self._arrival is not None:
            size = self._first_bytes + self._arrival.wire_bytes
            if size < self._chunks * CHUNK_BYTES:
                raise NotHttpError(_TOO_LITTLE)

    def on_body(self, body: bytes) -> None:
        # As short as possible: a chunk may have a single byte.
        self._dry_bytes, cycle = 0, self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()
        cycle.message_event.set()

    def on_message_complete(self) -> None:
        if self._replay is not None:
            return
        if self._arrival is not None:
            self._arrival.received = perf_counter()
            self._arrival = None
        super().on_message_complete()

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
        """Answer the request whose body arrives with its first error, and read nothing more."""
        self._deaf = True
        assert self._arrival
        self._arrival.fault = self._arrival.fault or error
        self.cycle.message_event.set()

    def _check_partial_head(self, data: bytes) -> None:
        if self._fresh_head:
            self._fresh_head = False
            self._least_head_bytes = (
                len(data) if self._parts == 1 else partial_size_of(self.url, self.headers, data)
            )
            if not self.busy:
                self.head_began()
        else:
            self._least_head_bytes += len(data)
        try:
            check_size(self.url, self.headers, self._least_head_bytes)
        except FraudopsError as error:
            self.refuse(error)

    def _check_partial_body(self, arrival: Arrival) -> None:
        if arrival.wire_bytes > arrival.most_wire_bytes or self._dry_bytes > DRY_BYTES:
            self._fail_body(NotHttpError(_TOO_LITTLE))

    # -- the start of a request

    def _feed_again(self, rest: memoryview) -> None:
        """Parse a head without its `Upgrade`, then the rest of the segment."""
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
                    # The rest holds another request with `Upgrade`.
                    rest = rest[pause.args[0] :]
        except httptools.HttpParserError as error:
            self._reject(error)

    def _begin(self, method: bytes, version: str) -> None:
        """Start a cycle for the request whose head is complete, or queue it."""
        if len(self.pipeline) >= MOST_WAITING:
            raise TooManyWaitingError
        path = path_of(self.url)
        self._in_head = False
        self._arrival, self._first_bytes = Arrival(perf_counter()), self._head_bytes
        self._dry_bytes = self._trailers = self._chunks = 0
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
