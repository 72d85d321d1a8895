"""How fast rows go to PostgreSQL: in small groups with pauses between them, so that where they share processors an answer waits for a small one at most.

While answers come and little waits, some 7,000 rows a second go; groups and pauses give way to the backlog as it grows, and once some 15,000 rows wait
there is no pause: what is only in the spool goes with its disk.
"""

import asyncio

from fraudops.audit.shipping import ShipperState

# Some 50 rows: about two milliseconds of the shipper's work, and as much of PostgreSQL's.
CALM_BYTES = 32 << 10
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

    def limit(self, size: int) -> int:
        """How many bytes the next group may have, of those it could have."""
        return min(size, CALM_BYTES) if self._pause else size

    async def rest(self) -> None:
        """After a group."""
        if self._pause:
            await asyncio.sleep(self._pause)
