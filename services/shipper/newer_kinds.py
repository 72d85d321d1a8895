"""Ships records of kinds that an older release could not ship.

A shipper keeps a record of an unknown kind in `spool/newer`. After an upgrade the next shipper
knows the kind and moves the record back into the spool. The folder may also hold files that
another pod has handed over, or that were adopted from a dead pod.
"""

import asyncio
import logging
from pathlib import Path

from fraudops.audit.dead_letters import DeadLetters
from fraudops.errors import FraudopsError
from fraudops.spool.segments import NEWER

logger = logging.getLogger(__name__)
LOOK_SECONDS = 10.0


class NewerKinds:
    """The folder `spool/newer` of one shipper."""

    def __init__(self, spool: Path) -> None:
        self._kept = DeadLetters(spool, NEWER)
        self._looked_at: set[str] = set()

    async def run(self) -> None:
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Move the records that this release knows back into the spool.

        A file is read only once: a second read would find the same unknown records.
        """
        if self._names() <= self._looked_at:
            return
        try:
            done = self._kept.replay()
        except (FraudopsError, OSError) as error:
            logger.error(
                "the records in the folder `newer` cannot be read",
                extra={"reason": str(error)},
            )
            return
        self._looked_at = self._names()
        if done.records:
            logger.info(
                "moved records that an older release kept to the spool",
                extra={"records": done.records},
            )

    def _names(self) -> set[str]:
        return {path.name for path in self._kept.folder.glob("*.jsonl")}
