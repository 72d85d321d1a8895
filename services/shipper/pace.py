"""How fast rows go to PostgreSQL: in small steps with pauses between them, so that where they share processors an answer waits for one step at most.

While answers come and little waits, at most 8,000 rows a second go; the pauses shorten as the backlog grows, and once some 15,000 rows wait there are
none: what is only in the spool goes with its disk.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

from fraudops.audit.shipping import ShipperState

T = TypeVar("T")
# About a millisecond of PostgreSQL's work.
STEP_ROWS = 32
PAUSE_SECONDS = 0.004
HURRIED_BYTES = 8 << 20


class Pace:
    """A backlog of `hurried_bytes` is shipped without a pause: with 0 every one is."""

    def __init__(self, hurried_bytes: float = 0) -> None:
        self._hurried_bytes = hurried_bytes
        self._pause = 0.0
        self._seen: int | None = None

    def look(self, current: ShipperState) -> None:
        """About every second: what waits now, and whether any record has come since the last look."""
        seen = current.backlog_rows + current.shipped + current.set_aside + current.missing
        coming = self._seen is not None and seen > self._seen
        self._seen = seen
        self._pause = PAUSE_SECONDS * (1 - current.backlog_bytes / self._hurried_bytes) if coming and current.backlog_bytes < self._hurried_bytes else 0.0

    def hurry(self) -> None:
        """From now on, whatever waits: who was told to stop has little time."""
        self._hurried_bytes = self._pause = 0.0

    async def steps(self, items: Sequence[T]) -> AsyncIterator[Sequence[T]]:
        """The items in their order, some at a time; all that are left at once where there are no pauses."""
        start = 0
        while start < len(items):
            step = STEP_ROWS if self._pause else len(items)
            yield items[start : start + step]
            start += step
            if self._pause:
                await asyncio.sleep(self._pause)
