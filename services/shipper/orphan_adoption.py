"""Adoption of the folders of dead pods, on a spool volume that outlives pods.

Their files are moved into this pod's spool, one after the other, and shipped from there.
"""

import asyncio
import logging
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from fraudops.audit.dead_letters import DEAD_LETTER_SHARE, DeadLetters
from fraudops.audit.shipper_status import ShipperStatus
from fraudops.errors import FraudopsError
from fraudops.spool.segments import room_bytes
from fraudops.spool.volume import OrphanedDirectory, PodDirectory, Volume

logger = logging.getLogger(__name__)
LOOK_SECONDS = 2.0
# The other half of the spool is reserved for the predictions of this pod.
SHARE = 0.5


class OrphanAdoption:
    """Moves the segments and dead letters of dead pods into the folder of this pod.

    It renames files and copies nothing. The shipper, the metrics and a replay then find them.
    `maximum` is the size limit of the spool in bytes.
    """

    def __init__(self, home: PodDirectory, maximum: int, current: ShipperStatus) -> None:
        self._volume, self._own, self._current = Volume(home), home.folder, current
        self._max_bytes, self._max_letters = SHARE * maximum, maximum // DEAD_LETTER_SHARE

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            # The random pause keeps the shippers of all pods from looking in step.
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.0))

    def look(self) -> None:
        """Visit each dead pod's folder once: move what may move, and count the bytes that stay."""
        left = 0
        try:
            for dead in self._volume.orphans():
                left += self._take(dead)
        except OSError as error:
            logger.error("the spool's volume cannot be read", extra={"reason": error.strerror})
        self._current.abandoned_bytes = left

    def _take(self, dead: OrphanedDirectory) -> int:
        """Empty one folder as far as possible; return how many bytes stay there."""
        steps = (self._take_segments, self._take_dead_letters, self._remove)
        for step in steps if dead.settled else ():
            # A failed step must not stop the next one: they concern different files.
            try:
                step(dead)
            except (FraudopsError, OSError) as error:
                logger.error(
                    "a dead pod's folder cannot be emptied",
                    extra={"folder": dead.folder.name, "reason": str(error)},
                )
        return dead.bytes()

    def _remove(self, dead: OrphanedDirectory) -> None:
        if not dead.bytes() and dead.remove_if_empty():
            logger.info(
                "emptied and removed a dead pod's folder", extra={"folder": dead.folder.name}
            )

    def _take_segments(self, dead: OrphanedDirectory) -> None:
        """Move segments while this spool has room for them."""
        # While PostgreSQL is down they are equally safe where they are, and this pod needs the
        # room for its own records.
        if self._current.phase != "shipping" or not self._has_room():
            return
        for size in dead.move_segments(self._own):
            self._current.adopted_bytes += size
            logger.info(
                "adopted a segment of a dead pod's spool",
                extra={"folder": dead.folder.name, "bytes": size},
            )
            if not self._has_room():
                return

    def _has_room(self) -> bool:
        return room_bytes(self._own) < self._max_bytes

    def _take_dead_letters(self, dead: OrphanedDirectory) -> None:
        """Move dead letters, which wait here for an operator, while this spool has room for them.

        They are equally safe where they are. Too many of them would leave no room for segments.
        """
        for theirs, ours in zip(
            DeadLetters.all(dead.folder), DeadLetters.all(self._own), strict=True
        ):
            if any(theirs.folder.glob("*.jsonl")):
                with theirs.for_handover() as paths:
                    ours.take_over(self._fitting(ours, paths))

    def _fitting(self, ours: DeadLetters, paths: Iterable[Path]) -> Iterator[Path]:
        """Yield each file that may move; the caller moves it before it asks for the next one."""
        for path in paths:
            used = ours.bytes()
            # An empty folder takes a file of any size. Otherwise a large file would wait for ever.
            if not self._has_room() or (used and used + path.stat().st_size > self._max_letters):
                return
            yield path
