"""How fast rows go to PostgreSQL: in little groups with pauses between them, so that where they
share processors an answer waits for a little one at most.

While answers come and little waits, groups of some 50 rows go with 4 ms between them. The more
waits, the larger the groups and the shorter the pauses, and once some 15,000 rows wait there are
none: what is only in the spool goes with its disk.
"""

import asyncio

from fraudops.audit.shipper_status import ShipperStatus

CALM_BYTES, PAUSE_SECONDS = 32 << 10, 0.004
HURRIED_BYTES = 8 << 20


class Throttle:
    """A backlog of `hurried_bytes` is shipped without a pause: with 0 every one is."""

    def __init__(self, hurried_bytes: float = 0) -> None:
        self._hurried_bytes = hurried_bytes
        # From 1 when nothing waits down to 0.
        self._calm = 0.0
        self._seen: int | None = None

    def look(self, current: ShipperStatus) -> None:
        """About every second: what waits now, and whether any record has come since the last look."""
        seen = current.backlog_rows + current.shipped + current.set_aside + current.missing
        coming = self._seen is not None and seen > self._seen
        self._seen = seen
        self._calm = (
            1 - current.backlog_bytes / self._hurried_bytes
            if coming and current.backlog_bytes < self._hurried_bytes
            else 0.0
        )

    def hurry(self) -> None:
        """From now on, whatever waits: who was told to stop has little time."""
        self._hurried_bytes = self._calm = 0.0

    def limit(self, size: int) -> int:
        """How many bytes the next group may have, of those it could have."""
        return min(size, int(CALM_BYTES / self._calm)) if self._calm else size

    async def rest(self) -> None:
        """Between a group and the next, where one waits already."""
        if self._calm:
            await asyncio.sleep(PAUSE_SECONDS * self._calm)
