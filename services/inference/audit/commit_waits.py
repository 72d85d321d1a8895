"""What waits until PostgreSQL has committed it: the durability `commit`.

One look at the shipper's positions is for all who wait.
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
AWAY = "PostgreSQL did not confirm in time that the answer is audited: try again. Is it reachable, and does the shipper run?"
REFUSED = (
    "PostgreSQL refused the audited row, or one that went with it: `fraudops audit verify` says why"
)


@dataclass
class Waiting:
    """Who waits for one segment, in the order of what they wrote.

    The descriptor keeps the segment where it is.
    """

    descriptor: int
    queue: "deque[tuple[int, asyncio.Future[bool]]]" = field(default_factory=deque)
    offset: int = 0


class Confirmations:
    """Of one worker, all on its event loop.

    While something waits in vain and nothing at all is confirmed, nothing new is let in but one
    try a second: else every request that is sent again would leave one more row, and hold its
    connection for nothing.
    """

    def __init__(self, spool: Path, wakeup: WakeupPipe, seconds: float) -> None:
        self._spool, self._wakeup, self._seconds = spool, wakeup, seconds
        self._segments: dict[str, Waiting] = {}
        self._refused: dict[str, int] = {}
        self._looking: asyncio.Task[None] | None = None
        self._overdue: set[asyncio.Future[bool]] = set()
        self._tried = self._moved = float("-inf")

    def admit(self) -> None:
        """Before anything is written. Raises StoreDownError."""
        if self._overdue and (now := time.monotonic()) - self._moved > PROBE_SECONDS:
            if now - self._tried < PROBE_SECONDS:
                raise StoreDownError(AWAY)
            self._tried = now

    async def wait(self, place: Place) -> None:
        """Raises StoreDownError when it was not confirmed in time, or refused; it may be in the
        table later all the same.
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
        # Those who waited for the disk in threads of their own come in any order.
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
        """As long as anybody waits."""
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
        """A row that was set aside is not told from its neighbours: none of those that this look
        finds is answered.
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
