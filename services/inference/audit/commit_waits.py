"""Waiting until PostgreSQL has committed a record, for the durability `commit`.

One poll of the shipper's positions serves all waiting requests.
"""

import asyncio
import os
import time
from bisect import insort
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from fraudops.errors import StoreDownError
from fraudops.spool.position import POSITION, read_position
from fraudops.spool.wakeup import WakeupPipe
from fraudops.spool.writer import Place

LOOK_SECONDS, LATE_LOOK_SECONDS, PROBE_SECONDS = 0.002, 0.05, 1.0
AWAY = (
    "PostgreSQL did not confirm in time that the answer is audited: try again. "
    "Is it reachable, and does the shipper run?"
)
REFUSED = (
    "PostgreSQL refused the audited row, or a row of the same group: "
    "`fraudops audit verify` says why"
)


@dataclass
class Waiting:
    """The requests that wait for one segment, ordered by the end of their record.

    The open descriptor keeps the segment in the spool.
    """

    descriptor: int
    queue: "deque[tuple[int, asyncio.Future[bool]]]" = field(default_factory=deque)
    offset: int = 0


class Confirmations:
    """Confirmations of one worker, used from its event loop only.

    It is also a circuit breaker: while requests time out and nothing is confirmed, one probe per
    second is admitted. Otherwise each retry of a client would add a row and hold a connection.
    """

    def __init__(self, spool: Path, wakeup: WakeupPipe, seconds: float) -> None:
        self._spool, self._wakeup, self._seconds = spool, wakeup, seconds
        self._segments: dict[str, Waiting] = {}
        self._refused: dict[str, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self._overdue: set[asyncio.Future[bool]] = set()
        self._tried = self._moved = float("-inf")

    def admit(self) -> None:
        """Admit a request, before anything is written. Raises StoreDownError."""
        if self._overdue and (now := time.monotonic()) - self._moved > PROBE_SECONDS:
            if now - self._tried < PROBE_SECONDS:
                raise StoreDownError(AWAY)
            self._tried = now

    async def wait(self, place: Place) -> None:
        """Wait until the records up to `place` are committed.

        Raises StoreDownError if they are refused or not confirmed in time. After a timeout they
        may still reach the table later.
        """
        taken = self._enqueue(place)
        self._wakeup.notify()
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.wait([taken], timeout=self._seconds)
        if not taken.done():
            self._overdue.add(taken)
            self._tried = time.monotonic()
            taken.add_done_callback(self._overdue.discard)
            raise StoreDownError(AWAY)
        if not taken.result():
            raise StoreDownError(REFUSED)

    def _enqueue(self, place: Place) -> "asyncio.Future[bool]":
        waiting = self._segments.get(place.segment)
        # One descriptor for each segment is enough.
        if waiting:
            os.close(place.descriptor)
        else:
            self._refused = {
                name: count
                for name, count in self._refused.items()
                if name in self._segments or name == place.segment
            }
            waiting = self._segments[place.segment] = Waiting(place.descriptor)
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        # With fsync `always` the writes run in threads and end in any order.
        insort(waiting.queue, (place.end, taken), key=lambda waits: waits[0])
        return taken

    async def close(self) -> None:
        if self._looking:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        for waiting in self._segments.values():
            os.close(waiting.descriptor)
        self._segments.clear()
        self._wakeup.close()

    async def _look(self) -> None:
        """Poll the positions while a request waits; poll slowly if all of them are overdue."""
        while self._segments:
            in_time = sum(len(waiting.queue) for waiting in self._segments.values()) > len(
                self._overdue
            )
            await asyncio.sleep(LOOK_SECONDS if in_time else LATE_LOOK_SECONDS)
            for name, waiting in list(self._segments.items()):
                self._confirm(name, waiting)
                if not waiting.queue:
                    os.close(self._segments.pop(name).descriptor)

    def _confirm(self, name: str, waiting: Waiting) -> None:
        """Resolve the requests whose records the shipper has passed.

        The position does not say which row was refused. So if any was, every row that this poll
        finds is reported as refused.
        """
        position = read_position(self._spool / (name + POSITION))
        if position is None:
            return
        if position.offset != waiting.offset:
            waiting.offset, self._moved = position.offset, time.monotonic()
        taken = position.refused == self._refused.get(name, 0)
        while waiting.queue and waiting.queue[0][0] <= position.offset:
            _, future = waiting.queue.popleft()
            if not future.done():
                future.set_result(taken)
        self._refused[name] = position.refused
