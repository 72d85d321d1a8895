"""Ships records of kinds that an older release could not ship.

A shipper keeps a record of an unknown kind in `spool/newer`. After an upgrade the next shipper
knows the kind and moves the record back into the spool. The folder may also hold files that
another pod has handed over, or that were adopted from a dead pod.
"""

import asyncio
import logging
from pathlib import Path

from fraudops.audit.dead_letters import DeadLetters
from fraudops.audit.shipper_status import ShipperStatus
from fraudops.errors import FraudopsError, SpoolFullError
from fraudops.spool.segments import NEWER, spool_bytes

logger = logging.getLogger(__name__)
LOOK_SECONDS = 10.0
# A spool that is over half full needs its room for what the pod answers.
SHARE = 0.5


class NewerKinds:
    """The folder `spool/newer` of one shipper."""

    def __init__(self, spool: Path, maximum: int, current: ShipperStatus) -> None:
        self._spool, self._room, self._current = spool, int(SHARE * maximum), current
        self._kept = DeadLetters(spool, NEWER)
        self._looked_at: set[str] = set()

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Move the records that this release knows back into the spool, if it has room for them.

        While PostgreSQL is away, the room is for what the pod answers.
        """
        try:
            if self._current.phase != "shipping" or spool_bytes(self._spool) >= self._room:
                return
            if not self._finds_known():
                return
            # The replay renames files, and may write known records to a file that was read.
            self._looked_at.clear()
            done = self._kept.replay(self._room)
        except SpoolFullError:
            logger.info("records in the folder `newer` wait until the spool has room")
        except (FraudopsError, OSError) as error:
            logger.error(
                "the records in the folder `newer` cannot be read",
                extra={"reason": str(error)},
            )
        else:
            logger.info(
                "moved records that an older release kept to the spool",
                extra={"records": done.records},
            )

    def _finds_known(self) -> bool:
        """Return whether a file holds records that this release knows.

        A file that holds none is read only once: this shipper adds only unknown records to it.
        """
        paths = sorted(self._kept.folder.glob("*.jsonl"))
        self._looked_at &= {path.name for path in paths}
        for path in paths:
            if path.name not in self._looked_at:
                if self._kept.holds_records(path):
                    return True
                self._looked_at.add(path.name)
        return False
