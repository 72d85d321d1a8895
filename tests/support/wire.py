"""A client that writes and reads raw bytes, as hostile clients do.

What it does is a list of steps: bytes to send, or the acts of `wire_steps.py`.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tests.support.figures import PROOF

# A client that has not ended by then is stuck.
CASE_SECONDS = 600.0 if PROOF else 60.0
GONE_SECONDS = 30.0
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")
End = Literal["open", "closed", "reset", "stuck"]


@dataclass(frozen=True)
class RawAnswer:
    status: int
    body: bytes


class RawClient:
    """One connection. `end` says how the service ended it, and `received` is what it sent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.received = bytearray()
        self.end: End = "open"
        self.gave_up = False
        self._complete: list[RawAnswer] = []
        self._parsed = 0
        self._changed = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await asyncio.get_running_loop().sock_connect(self.socket, ("127.0.0.1", self._port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.read()

    async def close(self) -> None:
        await self.stop_reading()
        self.socket.close()

    @property
    def answers(self) -> list[RawAnswer]:
        """The complete answers so far. Raises ValueError for bytes that are no answer."""
        while (end := self.received.find(b"\r\n\r\n", self._parsed)) >= 0:
            head = bytes(self.received[self._parsed : end + 4])
            if not head.startswith(b"HTTP/1.1 "):
                raise ValueError("no answer begins here")
            length = _LENGTH.search(head)
            after = end + 4 + (int(length[1]) if length else 0)
            if after > len(self.received):
                break
            self._complete.append(RawAnswer(int(head[9:12]), bytes(self.received[end + 4 : after])))
            self._parsed = after
        return self._complete

    async def send(self, data: bytes) -> None:
        """Send, as far as the service takes it."""
        try:
            await asyncio.get_running_loop().sock_sendall(self.socket, data)
        except OSError:
            await self.wait(lambda: self.end != "open", GONE_SECONDS)
            self.end = "reset" if self.end == "open" else self.end

    def read(self) -> None:
        """Read what comes from now on."""
        self._reading = asyncio.create_task(self._read())

    async def stop_reading(self) -> None:
        if self._reading:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading

    async def read_one_byte(self) -> None:
        """Read a byte, while the client reads nothing else."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(GONE_SECONDS):
                self.received += await asyncio.get_running_loop().sock_recv(self.socket, 1)

    async def wait(self, happened: Callable[[], bool], seconds: float) -> bool:
        """Return whether something happened before `seconds` passed, or the service hung up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not happened() and self.end == "open":
                    self._changed.clear()
                    await self._changed.wait()
        return happened()

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while data := await loop.sock_recv(self.socket, 1 << 16):
                self.received += data
                self._changed.set()
            self.end = "closed"
        except OSError:
            self.end = "reset"
        self._changed.set()


Act: TypeAlias = Callable[[RawClient], Awaitable[None]]
Step: TypeAlias = bytes | Act


@dataclass(frozen=True)
class Outcome:
    """What a client saw: the answers, and how the service ended the connection, if it did."""

    answers: tuple[RawAnswer, ...]
    end: End

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(answer.status for answer in self.answers)


async def perform(port: int, steps: Sequence[Step], expected: int | None, last: bytes) -> Outcome:
    """Do the steps, and wait for the `expected` number of answers or for the end.

    With a number, the bytes `last` go to a connection that is open then: a request with its answer,
    after which the service hangs up. None: only the steps count.
    """
    client = RawClient(port)
    try:
        async with asyncio.timeout(CASE_SECONDS):
            await client.open()
            for step in steps:
                await (client.send(step) if isinstance(step, bytes) else step(client))
            if expected is not None:
                await client.wait(lambda: len(client.answers) >= expected, GONE_SECONDS)
                end = await _ending(client, last)
            else:
                end = client.end
    except TimeoutError:
        end = "stuck"
    finally:
        await client.close()
    # The last answer of an open connection is that to `last`.
    answers = client.answers[:-1] if end == "open" and expected is not None else client.answers
    return Outcome(tuple(answers), end)


async def _ending(client: RawClient, last: bytes) -> End:
    """Return how the connection ended, before or after one more request."""
    if client.gave_up or b"connection: close" in client.received:
        await client.wait(lambda: False, GONE_SECONDS)
        return "stuck" if client.end == "open" else client.end
    if client.end != "open":
        return client.end
    before = len(client.answers)
    await client.send(last)
    await client.wait(lambda: False, GONE_SECONDS)
    return "open" if len(client.answers) > before else client.end


async def perform_all(
    port: int, clients: Sequence[tuple[Sequence[Step], int | None]], at_once: int, last: bytes
) -> list[Outcome]:
    """Perform for each client, with its steps and its `expected`; `at_once` run together."""
    turns = asyncio.Semaphore(at_once)

    async def one(steps: Sequence[Step], expected: int | None) -> Outcome:
        async with turns:
            return await perform(port, steps, expected, last)

    return await asyncio.gather(*(one(steps, expected) for steps, expected in clients))
