"""Bodies of requests: how they are read, and how many bytes of them a worker holds.

A client that stops in the middle of its body must neither keep a permit nor fill the memory.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from services.inference.http.problems import (
    BodyTooLargeError,
    BusyError,
    CutOffError,
    SlowBodyError,
    StalledBodyError,
)
from services.inference.metrics import Metrics

# Bodies up to this size are single transactions.
SINGLE_BYTES = 64 << 10
# Bytes that only single bodies can take, so that large ones never stop them.
RESERVE_BYTES = 8 << 20
STALLED_SECONDS = WAIT_SECONDS = 1.0
# What a body must get within STALLED_SECONDS to count as one that arrives.
STEP_BYTES = 64 << 10
POLL_SECONDS = 0.05
# Each body that waits has up to a segment of bytes that the budget does not count.
MOST_WAITING = 32
Receive = Callable[[], Awaitable[Any]]


@dataclass(slots=True, eq=False)
class Arrival:
    """How one request arrives. Times are those of perf_counter, in seconds.

    `head` is the end of the headers and `received` the last byte of the body, or None before it.
    `split`: the body came later than the headers. `wire_bytes` are the bytes after the headers,
    chunk sizes and extensions included, and `most_wire_bytes` their limit. `fault` says why no
    more of the body is read.
    """

    head: float
    received: float | None = None
    split: bool = False
    wire_bytes: int = 0
    most_wire_bytes: float = math.inf
    fault: Exception | None = None


class HeldBody:
    """The bytes of one body in memory.

    `step` are those since `last`, when it had got STEP_BYTES.
    """

    __slots__ = ("blocked", "last", "reading", "single", "size", "stalled", "step")

    def __init__(self, single: bool, now: float) -> None:
        self.single, self.size, self.step, self.last = single, 0, 0, now
        self.blocked = self.stalled = False
        # The time limit of the task that reads the body, until it is complete.
        self.reading: asyncio.Timeout | None = None

    def cut(self) -> None:
        """End the reading of the body."""
        assert self.reading
        self.stalled = end_now(self.reading)
        self.reading = None

    def grow(self, size: int, now: float) -> None:
        self.size += size
        self.step += size
        if self.step >= STEP_BYTES:
            self.restart(now)

    def restart(self, now: float) -> None:
        """Let the next step begin now."""
        self.step, self.last = 0, now


def end_now(limit: asyncio.Timeout) -> bool:
    """Let a time limit pass now. Returns False if it has passed already."""
    # asyncio refuses a change after that, until the task has run.
    if limit.expired():
        return False
    limit.reschedule(asyncio.get_running_loop().time())
    return True


class BodyBudget:
    """Bytes of bodies in one worker."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.used = 0
        self._limit, self._clock = limit, clock
        self._bodies: set[HeldBody] = set()
        self._waiting = 0

    @contextmanager
    def body(self, single: bool) -> Iterator[HeldBody]:
        """Hold the bytes of one body within the block."""
        held = HeldBody(single, self._clock())
        self._bodies.add(held)
        try:
            yield held
        finally:
            self._bodies.discard(held)
            self.used -= held.size

    async def add(self, held: HeldBody, size: int) -> None:
        """Count a part of a body. Raises BusyError if there is no room within WAIT_SECONDS.

        To make room, the largest body that got less than STEP_BYTES in STALLED_SECONDS is cut.
        """
        if not self._fits(held, size):
            await self._wait(held, size)
        self.used += size
        held.grow(size, self._clock())

    def _fits(self, held: HeldBody, size: int) -> bool:
        return self.used + size <= self._limit - (0 if held.single else RESERVE_BYTES)

    async def _wait(self, held: HeldBody, size: int) -> None:
        if self._waiting >= MOST_WAITING:
            raise BusyError
        deadline = self._clock() + WAIT_SECONDS
        held.blocked, self._waiting = True, self._waiting + 1
        try:
            while not self._fits(held, size):
                if self._clock() >= deadline:
                    raise BusyError
                self._cut_stalled()
                await asyncio.sleep(POLL_SECONDS)
        finally:
            held.blocked, self._waiting = False, self._waiting - 1
            # In the meantime it could get nothing.
            held.restart(self._clock())

    def _cut_stalled(self) -> None:
        latest = self._clock() - STALLED_SECONDS
        stalled = [
            body
            for body in self._bodies
            if body.reading and body.size and not body.blocked and body.last <= latest
        ]
        if stalled:
            max(stalled, key=lambda body: body.size).cut()


class Permits:
    """How many large requests of one kind are worked on at the same time, in one worker."""

    def __init__(
        self, kind: str, number: int, metrics: Metrics, wait_seconds: float = WAIT_SECONDS
    ) -> None:
        self._kind, self._metrics, self._wait_seconds = kind, metrics, wait_seconds
        self._free = asyncio.Semaphore(number)

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold a permit within the block. The request that waits longest gets the next one.

        Take it after the last byte of the body. Raises BusyError if none is free in time.
        """
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._free.acquire()
        except TimeoutError:
            raise BusyError from None
        finally:
            self._metrics.waited(self._kind, time.perf_counter() - started)
        try:
            yield
        finally:
            self._free.release()


class BodyReader:
    """Reads the body of one request.

    `seconds` is the time for all of it, from the first read. For a stream it is that of each part.
    """

    def __init__(self, receive: Receive, arrival: Arrival, seconds: float) -> None:
        self._receive, self._arrival, self._seconds = receive, arrival, seconds

    async def whole(
        self, limit: int, announced: int | None, held: HeldBody, budget: BodyBudget
    ) -> bytes:
        """Return the body; `limit` and the length that the client `announced` are in bytes.

        Raises BodyTooLargeError as soon as the limit is passed, SlowBodyError, BusyError,
        CutOffError, or the fault of the arrival.
        """
        if announced and announced > limit:
            raise BodyTooLargeError(limit)
        # Chunk sizes and extensions are read too.
        self._arrival.most_wire_bytes = 2 * limit + SINGLE_BYTES
        parts, more = [], True
        try:
            async with asyncio.timeout(self._seconds) as held.reading:
                while more:
                    part, more = await self._part()
                    if held.size + len(part) > limit:
                        raise BodyTooLargeError(limit)
                    await budget.add(held, len(part))
                    parts.append(part)
        except TimeoutError as error:
            slow = StalledBodyError() if held.stalled else SlowBodyError(self._seconds)
            raise slow from error
        finally:
            held.reading = None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the body in parts; each must come within the time. Raises as `whole` does."""
        more = True
        while more:
            try:
                async with asyncio.timeout(self._seconds):
                    part, more = await self._part()
            except TimeoutError as error:
                raise SlowBodyError(self._seconds) from error
            yield part

    async def _part(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if self._arrival.fault:
            raise self._arrival.fault
        if message["type"] == "http.disconnect":
            raise CutOffError
        return message.get("body", b""), message.get("more_body", False)
