"""The shipper's loop: read a group of records, write it to PostgreSQL, record the position.

It runs in a separate process, outside the request path.
"""

import asyncio
import contextlib
import logging
import random
import time
from datetime import datetime
from pathlib import Path

from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.shipper_status import ShipperStatus
from fraudops.errors import StoreDownError
from fraudops.spool.reader import SpoolReader
from fraudops.spool.segment_reader import CHUNK, SegmentChunk, SegmentReader
from fraudops.spool.segments import ASIDE, NEWER
from services.shipper.circuit_breaker import DatabaseRefusesError
from services.shipper.rows import answered_at
from services.shipper.sink import Sink
from services.shipper.throttle import Throttle

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
SMALLEST_GROUP, LARGEST_GROUP = 64 << 10, CHUNK
Group = list[tuple[SegmentReader, SegmentChunk]]


class Shipper:
    """Ships the spool in one task.

    It keeps `current`, the status that others read, up to date. Setting `wake` ends a pause
    between two polls. The dead letters that it writes have at most `aside_limit` bytes.
    """

    def __init__(
        self,
        spool: SpoolReader,
        sink: Sink,
        folder: Path,
        current: ShipperStatus,
        wake: asyncio.Event,
        throttle: Throttle,
        aside_limit: int,
    ) -> None:
        self._spool, self._sink, self._current = spool, sink, current
        current.aside_limit_bytes = aside_limit
        self._wake, self._throttle = wake, throttle
        self._dead_letters, self._newer = DeadLetters.all(folder)
        self._budget = 4 * SMALLEST_GROUP
        self._failures = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Ship until `stopping` is set, then ship the rest while PostgreSQL accepts it.

        Raises OSError if the spool cannot be read.
        """
        while True:
            # Read `stopping` before the step: only a step that starts after it sees every record.
            last = stopping.is_set()
            # Clear before the step: a wake-up during the step then shortens the next pause.
            self._wake.clear()
            try:
                more = await self._step()
            except StoreDownError as error:
                self._failed(error)
                if last:
                    return
                # The random part keeps the shippers of all pods from returning together.
                await _pause(
                    stopping,
                    min(LONGEST_PAUSE_SECONDS, POLL_SECONDS * 2**self._failures)
                    * random.uniform(0.5, 1.0),
                )
                continue
            self._worked()
            if more:
                await self._throttle.rest()
                continue
            if last:
                self._spool.remove_finished()
                return
            await _pause(self._wake, POLL_SECONDS)

    async def _step(self) -> bool:
        """Ship one group; return True if there may be more."""
        group = self._spool.read(self._throttle.limit(self._budget))
        more = any(reader.has_more(piece) for reader, piece in group)
        self._current.oldest_at = _oldest(group)
        # Open it also without records, so that the status shows an outage of PostgreSQL.
        await self._sink.open()
        if not group:
            return False
        started = time.monotonic()
        outcome = await self._sink.ship(
            [payload for _, piece in group for payload in piece.payloads]
        )
        refused = self._reject(group, outcome.rejected)
        self._keep(outcome.unknown)
        # Move the position last: a crash before this line ships the group again, which adds no
        # row. The other order would lose records.
        for reader, piece in group:
            reader.commit(piece, refused)
            self._current.missing += piece.missing
        self._current.shipped += outcome.rows
        self._current.replayed += outcome.rows - outcome.new
        self._adapt(more, time.monotonic() - started)
        return more

    def _reject(self, group: Group, rejected: list[RejectedRecord]) -> int:
        """Write rejected records and damaged stretches to the dead letters.

        Returns how many records and stretches are not in the table. Raises StoreDownError.
        """
        damaged = [
            RejectedRecord(
                piece.damaged,
                f"damaged or unfinished: {reader.segment.name} from byte {piece.start}",
            )
            for reader, piece in group
            if piece.damaged
        ]
        limit = self._current.aside_limit_bytes
        _put(self._dead_letters, [*rejected, *damaged], limit)
        self._current.set_aside += len(rejected) + len(damaged)
        missing = sum(piece.missing for _, piece in group)
        if rejected:
            logger.error(
                "records became dead letters: `fraudops audit verify` says why",
                extra={"records": len(rejected), "folder": ASIDE},
            )
        if damaged or missing:
            logger.error(
                "a segment of the spool is damaged",
                extra={"stretches": len(damaged), "missing_records": missing, "folder": ASIDE},
            )
        return len(rejected) + len(damaged) + missing

    def _keep(self, unknown: list[bytes]) -> None:
        """Keep records of unknown kinds on disk, for a shipper of a newer release."""
        if unknown:
            reason = "of a kind that only a newer release knows"
            _put(self._newer, [RejectedRecord(payload, reason) for payload in unknown])
            self._current.kept_for_newer += len(unknown)
            logger.warning(
                "kept records of a newer release: upgrade to ship them",
                extra={"records": len(unknown), "folder": NEWER},
            )

    def _adapt(self, more: bool, seconds: float) -> None:
        """Shrink the groups after a slow one; grow them after a fast one if more records wait."""
        if seconds > 2:
            self._budget = max(SMALLEST_GROUP, self._budget // 2)
        elif more and seconds < 0.5:
            self._budget = min(LARGEST_GROUP, self._budget * 2)

    def _failed(self, error: StoreDownError) -> None:
        # Log each reason once; an outage fails many times in the same way.
        fault = str(error.fault) if isinstance(error, DatabaseRefusesError) else None
        if str(error) != self._current.last_error or not self._failures:
            logger.log(
                logging.ERROR if fault else logging.WARNING,
                "refused" if fault else "waiting",
                extra={"reason": str(error)},
            )
        self._failures = min(self._failures + 1, 20)
        self._budget = max(SMALLEST_GROUP, self._budget // 2)
        self._current.phase = "refused" if fault else "waiting"
        self._current.last_error, self._current.fault = str(error), fault

    def _worked(self) -> None:
        if self._failures:
            logger.info("PostgreSQL accepts rows again")
        self._failures = 0
        self._current.phase = "shipping"
        self._current.last_error = self._current.fault = None


def _put(letters: DeadLetters, entries: list[RejectedRecord], limit: int | None = None) -> None:
    """Write the entries. Raises StoreDownError, so that the shipper says why it waits."""
    try:
        letters.put(entries, limit)
    except FileNotFoundError:
        raise  # Another pod has taken the folder of this one, and the caller says so.
    except OSError as error:
        raise StoreDownError(
            f"the folder {letters.folder.name} of the spool cannot be written ({error.strerror})"
        ) from error


async def _pause(event: asyncio.Event, seconds: float) -> None:
    """Sleep until the event is set, but at most `seconds`."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _oldest(group: Group) -> datetime | None:
    """Return when the oldest of the pieces' first predictions was answered."""
    moments = [
        moment
        for _, piece in group
        for payload in piece.payloads[:1]
        if (moment := answered_at(payload))
    ]
    return min(moments, default=None)
