"""On a volume that outlives pods: what dead pods have left comes into this pod's spool, bit by bit,
and is shipped with its own.
"""

import asyncio
import logging
import random

from fraudops.audit.dead_letters import DeadLetters
from fraudops.audit.shipper_status import ShipperStatus
from fraudops.errors import FraudopsError
from fraudops.spool.segments import spool_bytes
from fraudops.spool.volume import OrphanedDirectory, PodDirectory, Volume

logger = logging.getLogger(__name__)
LOOK_SECONDS = 2.0
# A spool that is over half full needs its room for what the pod answers itself.
SHARE = 0.5


class OrphanAdoption:
    """Nothing is copied: segments and what was set aside are renamed into the pod's own folder,
    where the shipper, the metrics and a replay find them.
    """

    def __init__(self, home: PodDirectory, maximum: int, current: ShipperStatus) -> None:
        self._volume, self._own, self._room, self._current = (
            Volume(home),
            home.folder,
            SHARE * maximum,
            current,
        )

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_SECONDS * random.uniform(0.5, 1.0))

    def look(self) -> None:
        """Once over all dead folders: takes what may be taken, and counts what stays."""
        left = 0
        try:
            for dead in self._volume.orphans():
                left += self._take(dead)
        except OSError as error:
            logger.error("the spool's volume cannot be read", extra={"reason": error.strerror})
        self._current.abandoned_bytes = left

    def _take(self, dead: OrphanedDirectory) -> int:
        """How many bytes stay there.

        What is wrong with what was set aside keeps nobody from the segments.
        """
        for step in (
            (self._take_segments, self._take_what_was_set_aside, self._remove)
            if dead.settled
            else ()
        ):
            try:
                step(dead)
            except (FraudopsError, OSError) as error:
                logger.error(
                    "a dead pod's folder was not emptied",
                    extra={"folder": dead.folder.name, "reason": str(error)},
                )
        return dead.bytes()

    def _remove(self, dead: OrphanedDirectory) -> None:
        if not dead.bytes() and dead.remove_if_empty():
            logger.info(
                "a dead pod's folder was emptied and removed", extra={"folder": dead.folder.name}
            )

    def _take_segments(self, dead: OrphanedDirectory) -> None:
        """Only while PostgreSQL takes rows: until then they are as safe where they are, and this
        pod needs its room.
        """
        if self._current.phase != "shipping" or not self._has_room():
            return
        for size in dead.move_segments(self._own):
            self._current.adopted_bytes += size
            logger.info(
                "a segment of a dead pod's spool was adopted",
                extra={"folder": dead.folder.name, "bytes": size},
            )
            if not self._has_room():
                return

    def _has_room(self) -> bool:
        return spool_bytes(self._own) < self._room

    def _take_what_was_set_aside(self, dead: OrphanedDirectory) -> None:
        """It waits for people here as it did there, and goes on from here when this pod dies."""
        for theirs, ours in zip(
            DeadLetters.all(dead.folder), DeadLetters.all(self._own), strict=True
        ):
            if any(theirs.folder.glob("*.jsonl")):
                with theirs.for_handover() as paths:
                    ours.take_over(paths)
