"""Throttles shipping to small groups of rows with pauses.

On shared CPUs a prediction then never waits behind a large group. With traffic and a small
backlog, groups have about 50 rows and pauses last 4 ms. A larger backlog makes the groups larger
and the pauses shorter. From about 15,000 waiting rows on there is no pause, because rows that are
only in the spool are lost with its disk.
"""

import asyncio

from fraudops.audit.shipper_status import ShipperStatus

CALM_BYTES, PAUSE_SECONDS = 32 << 10, 0.004
HURRIED_BYTES = 8 << 20


class Throttle:
    """Limits the size of groups and the pauses between them.

    A backlog of at least `hurried_bytes` is shipped without pauses. 0 disables the pauses.
    """

    def __init__(self, hurried_bytes: float = 0) -> None:
        self._hurried_bytes = hurried_bytes
        # 1 for an empty backlog, down to 0 for one that is shipped without pauses.
        self._calm = 0.0
        self._seen: int | None = None

    def look(self, current: ShipperStatus) -> None:
        """Adapt to the backlog and to whether new records arrive; call it about every second."""
        seen = current.backlog_rows + current.shipped + current.set_aside + current.missing
        coming = self._seen is not None and seen > self._seen
        self._seen = seen
        self._calm = (
            1 - current.backlog_bytes / self._hurried_bytes
            if coming and current.backlog_bytes < self._hurried_bytes
            else 0.0
        )

    def hurry(self) -> None:
        """Ship without pauses from now on, because the process must end soon."""
        self._hurried_bytes = self._calm = 0.0

    def limit(self, size: int) -> int:
        """Return the size limit of the next group in bytes, at most `size`."""
        return min(size, int(CALM_BYTES / self._calm)) if self._calm else size

    async def rest(self) -> None:
        """Pause between two groups when the next one waits already."""
        if self._calm:
            await asyncio.sleep(PAUSE_SECONDS * self._calm)
