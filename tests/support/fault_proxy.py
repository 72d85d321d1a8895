"""A network between the shipper and PostgreSQL that tests can break.

It resets connections, or stalls them without a reset, at a chosen point of the client's
messages.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NoReturn

# SO_LINGER on with 0 seconds: closing the socket then sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)
# Bytes after the word COPY: the rest of the statement, and half of a row.
WITHIN = 600
COPYING, INSERTING, COMMITTING, GREETING = (
    b'COPY "',
    b"INSERT INTO predictions",
    b"COMMIT",
    b"SET LOCAL lock_timeout",
)
# A COPY into the table itself commits with its last message, CopyDone.
STRAIGHT, COPIED = b'COPY "predictions"', b"c\x00\x00\x00\x04"


@dataclass
class Trap:
    """A fault that happens once, when a client sends `words`.

    `hold` keeps back everything that the client sends after that. `stall` keeps back both
    directions. `cut` keeps back the answer and then resets the connection.

    With `after`, the trap is active only once a client has sent those bytes. `more` bytes from the
    start of `words` are let through; 0 lets through all bytes that arrived together with `words`.
    """

    words: bytes
    then: Literal["hold", "stall", "cut"]
    more: int = 0
    after: bytes = b""
    sprung: threading.Event = field(default_factory=threading.Event)


class ProxiedConnection:
    """The two streams of one client; answers pass only while `answered` is set."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server = client, server
        self.answered = asyncio.Event()
        self.answered.set()

    def reset(self) -> None:
        for writer in (self.client, self.server):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


class FaultProxy:
    """A proxy in a thread, from the loopback port `port` to `upstream`."""

    def __init__(self, upstream: int) -> None:
        self._upstream, self.port, self.resets = upstream, 0, 0
        self._loop = asyncio.new_event_loop()
        self._connections: set[ProxiedConnection] = set()
        self._trap: Trap | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()

    @contextlib.contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        started = threading.Event()
        thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(self._serve(started))
        )
        thread.start()
        try:
            assert started.wait(10)
            yield self
        finally:
            self._call(self._ended.set)
            thread.join()
            self._loop.close()

    def stall(self) -> None:
        """Let nothing pass, without a reset. New connections are accepted and get no bytes."""
        self._call(self._flowing.clear)

    def flow(self) -> None:
        self._call(self._flowing.set)

    def reset(self) -> None:
        """Reset every connection with RST on both sides."""
        self._call(self._reset)

    def clear(self) -> None:
        """Remove a trap that has not been sprung, and let everything pass."""
        self._trap = None
        self.flow()

    def set(self, trap: Trap) -> Trap:
        self._trap = trap
        return trap

    def _call(self, function: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(function)

    def _reset(self) -> None:
        for connection in list(self._connections):
            self.resets += 1
            connection.reset()

    async def _serve(self, started: threading.Event) -> None:
        self._ended = asyncio.Event()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._ended.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reset()
        # An aborted transport closes its socket in the next turn of the loop.
        await asyncio.sleep(0)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, server = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        connection = ProxiedConnection(writer, server)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(connection, reader))
                both.create_task(self._return(connection, upstream))
        except* OSError:
            pass
        finally:
            self._connections.discard(connection)
            writer.transport.abort()
            server.transport.abort()

    async def _forward(self, connection: ProxiedConnection, reader: asyncio.StreamReader) -> None:
        """Pass on the bytes of the client. Its end closes both directions."""
        while data := await reader.read(1 << 16):
            await self._flowing.wait()
            trap = self._trap
            if trap and trap.after:
                trap.after = b"" if trap.after in data else trap.after
            elif trap and trap.words in data:
                self._trap = None
                await self._spring(trap, connection, reader, data)
            await _pass(connection.server, data)
        raise ConnectionResetError

    async def _spring(
        self, trap: Trap, connection: ProxiedConnection, reader: asyncio.StreamReader, data: bytes
    ) -> NoReturn:
        end = data.index(trap.words) + trap.more
        while trap.more and len(data) < end:
            piece = await reader.read(1 << 16)
            if not piece:
                # The client ended first: the trap waits for the next connection.
                self._trap = trap
                raise ConnectionResetError
            data += piece
        if trap.more:
            data = data[:end]
        if trap.then != "hold":
            connection.answered.clear()
        await _pass(connection.server, data)
        trap.sprung.set()
        if trap.then == "cut":
            # The server gets time to act on the message; its answer stays here.
            await asyncio.sleep(0.2)
            self.resets += 1
            connection.reset()
            raise ConnectionResetError
        # Read no further: the proxy must not even notice that the client ends.
        await asyncio.Event().wait()
        raise AssertionError

    async def _return(self, connection: ProxiedConnection, upstream: asyncio.StreamReader) -> None:
        """Pass on the bytes of the server."""
        while data := await upstream.read(1 << 16):
            await self._flowing.wait()
            await connection.answered.wait()
            await _pass(connection.client, data)
        raise ConnectionResetError


async def _pass(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
