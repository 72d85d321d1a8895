"""One connection: its stage, its refusals and its end.

A refusal waits for the answers of earlier requests. A connection whose client still sends does not
close right away after it: the client would lose the answer by a reset. It lingers, and throws away
what comes.
"""

import asyncio
from functools import partial
from time import perf_counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from fraudops.ids import uuid7
from services.inference.http.bodies import Arrival
from services.inference.http.connections import UNREAD_SECONDS, Connections, Stage
from services.inference.http.error_answers import error_response
from services.inference.http.problems import Headers, SlowHeadError

LINGER_SECONDS, LINGER_BYTES = 1.0, 32 << 20


class ClientConnection(HttpToolsProtocol):
    """A connection of uvicorn, and the stage in which it is.

    `due` is the end of the stage, as a time of perf_counter. `unread_since` is set while the client
    does not read its answers.
    """

    def __init__(self, connections: Connections, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._connections, self._limits = connections, connections.limits
        self.due = perf_counter() + self._limits.idle_seconds
        self.unread_since: float | None = None
        self.url = b""
        # The body that arrives now.
        self._arrival: Arrival | None = None
        self._in_head = False
        self._running: RequestResponseCycle | None = None
        self._refusal: Exception | None = None
        # `_deaf`: input is thrown away. `_closing`: the connection closes. `_leaving`: the server
        # stops. `_ended`: the client sends nothing more. `_answered`: it had an answer.
        self._deaf = self._closing = self._leaving = self._ended = self._answered = False
        self._discarded = 0

    def answer_waiting(self) -> None:
        """Answer a request that waits for the end of this turn of the loop."""

    # -- what the registry of connections calls

    @property
    def busy(self) -> bool:
        """True while a request has no complete answer."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def stage(self) -> Stage | None:
        """For what the connection waits; each change to another stage is a call of `waits`."""
        if self._closing or self.unread_since is not None:
            return "stuck"
        if self.busy:
            # A body behind an earlier request waits for the service too.
            return "stuck" if self._arrival and self._running is self.cycle else None
        return "head" if self._in_head or not self._answered else "idle"

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

    def give_way(self) -> None:
        if self.busy or self._in_head or self._closing or self.transport.get_write_buffer_size():
            # To close would take as long as the client likes.
            self.abort()
        else:
            self.close()

    def close(self) -> None:
        self._end()
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

    def pause_writing(self) -> None:
        self.unread_since = perf_counter()
        self._connections.waits(self, "stuck")
        super().pause_writing()

    def resume_writing(self) -> None:
        self.unread_since = None
        if stage := self.stage:
            self._connections.waits(self, stage)
        super().resume_writing()

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
        self._answered = True
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
            if self._in_head:
                self.head_began()
            else:
                self.due = perf_counter() + self._limits.idle_seconds
                self._connections.waits(self, "idle")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if self._arrival:
            self._connections.waits(self, "stuck")
        super()._start_asgi_task(cycle, partial(self._run, cycle, app))

    async def _run(self, cycle: RequestResponseCycle, app: Any, *arguments: Any) -> None:
        try:
            await app(*arguments)
        except asyncio.CancelledError:
            # The server stops, and this client does not read its answer. uvicorn would log an error
            # for it, also when the connection only closes.
            cycle.disconnected = True
            self.abort()

    def head_began(self) -> None:
        """Wait for the rest of a head."""
        self.due = perf_counter() + self._limits.head_seconds
        self._connections.waits(self, "head")

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
        self._end()
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

    def _end(self) -> None:
        """Read nothing more, and close after UNREAD_SECONDS at the latest."""
        self._closing = self._deaf = True
        self.due = perf_counter() + UNREAD_SECONDS
        self._connections.waits(self, "stuck")

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > LINGER_BYTES:
            self.close()

    def _leave(self) -> None:
        if not self.busy and not self._closing:
            self.close()


class CycleTransport:
    """The transport of one cycle, which closes the connection in the protocol's way."""

    def __init__(self, protocol: ClientConnection, arrival: Arrival) -> None:
        self._protocol, self._arrival = protocol, arrival
        self.write, self.is_closing = protocol.transport.write, protocol.transport.is_closing

    def close(self) -> None:
        if self._arrival.received is None:
            self._protocol.linger()
        else:
            self._protocol.close()
