"""uvicorn's HTTP protocol with a fast path for /predict.

The fast path has no task, no ASGI messages and no middleware.
Everything else is uvicorn's own.

A request takes the short way when it is whole at once, as clients send small bodies, and has
nothing unusual about it; any other is begun anew as uvicorn would have. Only the parser's
callbacks and the cycle's begin are overridden; tests/contract hold both ways to the same
answers.
"""

from time import perf_counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from services.inference.http.bodies import SINGLE_BYTES, Arrival
from services.inference.http.fast_path import PREDICT, FastPath
from services.inference.http.media import is_json
from services.inference.http.problems import Headers
from services.inference.http.request_headers import request_id as id_of

_PATH = PREDICT.encode()
_UNUSUAL = frozenset({b"expect", b"transfer-encoding", b"upgrade"})


class FastPathProtocol(HttpToolsProtocol):
    """`_body` is there while a request that may take the short way arrives;

    `_waits` while its answer is due within this turn of the loop.
    """

    def __init__(self, fast_path: FastPath, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._fast_path = fast_path
        self._body: bytes | None = None
        self._request_id: str | None = None
        self._waits = False
        self._arrival = Arrival(0.0)
        self._started = 0.0
        self._server_headers: tuple[Any, bytes] = (None, b"")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._body is not None:
            self._ordinary(self._body)

    def on_message_begin(self) -> None:
        if self._waits:
            self._fast_path.flush()
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        self._started = perf_counter()
        if self.url == _PATH and self._is_free() and self._is_usual():
            self._body = b""
        else:
            self._ordinary(None)

    def on_body(self, body: bytes) -> None:
        if self._body is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        body, self._body = self._body, None
        if body is None:
            self._complete()
            return
        self._waits = True
        if len(body) > SINGLE_BYTES or not self._fast_path.submit(
            self, body, self._request_id, self._started
        ):
            self._waits = False
            self._ordinary(body)
            self._complete()

    def reply(self, status: int, headers: Headers, body: bytes, request_id: str) -> None:
        """The whole answer at once; the client may have gone meanwhile."""
        self._waits = False
        if self.transport.is_closing():
            return
        own = b"".join([b"%b: %b\r\n" % header for header in headers])
        ending = b"content-length: %d\r\nx-request-id: %b\r\n\r\n" % (
            len(body),
            request_id.encode(),
        )
        self.transport.write(b"".join((STATUS_LINE[status], self._defaults(), own, ending, body)))
        self.on_response_complete()

    def shutdown(self) -> None:
        self._fast_path.flush()
        super().shutdown()

    def _is_free(self) -> bool:
        """Nothing is under way on this connection, and its client reads what it is sent."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _is_usual(self) -> bool:
        parser = self.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1":
            return False
        typed, self._request_id = False, None
        for name, value in self.headers:
            if name == b"content-type":
                typed = is_json(value)
            elif name == b"x-request-id":
                self._request_id = id_of(value)
            elif name in _UNUSUAL or (name == b"connection" and value.lower() != b"keep-alive"):
                return False
        return typed

    def _ordinary(self, body: bytes | None) -> None:
        """The request from its beginning as uvicorn has it, with what has arrived of its body."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        self._body = None
        # An answer of the short way, just given, may have armed it again.
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._arrival = self.scope["state"]["arrival"] = Arrival(perf_counter())
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        if body:
            super().on_body(body)

    def _complete(self) -> None:
        self._arrival.received = perf_counter()
        super().on_message_complete()

    def _defaults(self) -> bytes:
        """The server's own headers; uvicorn makes a new list each second."""
        known, encoded = self._server_headers
        current = self.server_state.default_headers
        if known is not current:
            encoded = b"".join([b"%b: %b\r\n" % header for header in current])
            self._server_headers = current, encoded
        return encoded
