"""The worker's end of the audit: where a record must be before its answer leaves."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from fraudops.errors import StoreDownError
from fraudops.settings import InferenceSettings
from fraudops.spool import SpoolWriter
from fraudops.spool.in_memory_count import collect_lost
from fraudops.spool.memory import MemoryWriter
from fraudops.spool.wakeup import WakeupPipe
from fraudops.state import State
from services.inference.audit.commit_waits import Confirmations
from services.inference.metrics import Metrics

logger = logging.getLogger(__name__)
REOPEN_SECONDS = 1.0


class Writer(Protocol):
    def append_many(self, payloads: Sequence[bytes], /) -> None: ...

    def close(self) -> None: ...


class Unwritten:
    """Where records go when nothing is audited."""

    def append_many(self, payloads: Sequence[bytes], /) -> None:
        pass

    def close(self) -> None:
        pass


class Audit:
    """Appends and counts refusals.

    What cannot be opened is tried again, and nothing is answered until then.

    `off`: nothing is kept. `waits`: an append may have to wait, for the disk (fsync always) or
    for PostgreSQL (commit), and only the asynchronous calls may be used. Those who wait together
    share one fsync, or one look.
    """

    off = waits = False

    def __init__(self, open_writer: Callable[[], Writer], metrics: Metrics, folder: Path) -> None:
        """`folder` is where processes that held records in memory have left their tallies."""
        self._open, self._metrics, self._folder = open_writer, metrics, folder
        self._writer: Writer | None = None
        self._tried = float("-inf")

    def put(self, records: Sequence[bytes]) -> None:
        """All or none, at once; only where nothing `waits`.

        Raises SpoolFullError, StoreDownError; then nothing was written.
        """
        try:
            (self._writer or self._opened()).append_many(records)
        except StoreDownError:
            self._metrics.refused(len(records))
            raise

    async def append(self, record: bytes) -> None:
        """Raises as `append_many` does."""
        await self.append_many((record,))

    async def append_many(self, records: Sequence[bytes]) -> None:
        """All or none.

        Raises SpoolFullError, StoreDownError; then nothing was written, or with `commit` perhaps
        all.
        """
        self.put(records)

    async def close(self) -> None:
        if self._writer:
            await asyncio.to_thread(self._writer.close)

    def open(self) -> None:
        """At the worker's start: a disk that is full now must not keep the worker from living."""
        if lost := collect_lost(self._folder):
            logger.error(
                "answers were lost with a process that held them in memory",
                extra={"records_at_most": lost},
            )
            self._metrics.lost(lost)
        try:
            self._opened()
        except StoreDownError as error:
            logger.error("the audit spool cannot be opened", extra={"reason": str(error)})

    def _opened(self) -> Writer:
        if self._writer is None:
            if time.monotonic() - self._tried < REOPEN_SECONDS:
                raise StoreDownError("the audit spool cannot be opened: check its disk")
            self._tried = time.monotonic()
            self._writer = self._open()
        return self._writer


class NoAudit(Audit):
    """For measuring what the audit costs."""

    off = True

    def open(self) -> None:
        super().open()
        logger.error(
            "NOTHING IS AUDITED: FRAUDOPS_AUDIT__DURABILITY is off, which is for measuring only"
        )


class SyncedAudit(Audit):
    """Waits for the disk, off the event loop."""

    waits = True

    async def append_many(self, records: Sequence[bytes]) -> None:
        try:
            await asyncio.to_thread(self._opened().append_many, records)
        except StoreDownError:
            self._metrics.refused(len(records))
            raise


class CommittedAudit(Audit):
    """Waits for PostgreSQL; with `blocking` for the disk first, off the event loop."""

    waits = True

    def __init__(
        self,
        open_spool: Callable[[], SpoolWriter],
        metrics: Metrics,
        folder: Path,
        confirmations: Confirmations,
        *,
        blocking: bool,
    ) -> None:
        super().__init__(open_spool, metrics, folder)
        self._confirmations, self._blocking = confirmations, blocking

    async def append_many(self, records: Sequence[bytes]) -> None:
        try:
            self._confirmations.admit()
            spool = self._opened()
            assert isinstance(spool, SpoolWriter)
            place = (
                await asyncio.to_thread(spool.append_placed, records)
                if self._blocking
                else spool.append_placed(records)
            )
            await self._confirmations.wait(place)
        except StoreDownError:
            self._metrics.refused(len(records))
            raise

    async def close(self) -> None:
        await self._confirmations.close()
        await super().close()


def audit_of(settings: InferenceSettings, state: State, metrics: Metrics) -> Audit:
    """As `audit.durability` wants it. Make it after the fork."""
    chosen, folder = settings.audit, state.run
    writer = f"{settings.pod}-{os.getpid()}"
    open_spool = partial(SpoolWriter, state.spool, writer, chosen.spool_options())
    if chosen.durability == "off":
        return NoAudit(Unwritten, metrics, folder)
    if chosen.durability == "memory":
        return Audit(
            lambda: MemoryWriter(open_spool, chosen.memory_max_bytes, folder), metrics, folder
        )
    if chosen.durability == "commit":
        confirmations = Confirmations(
            state.spool, WakeupPipe(folder), chosen.commit_timeout_seconds
        )
        return CommittedAudit(
            open_spool, metrics, folder, confirmations, blocking=chosen.fsync == "always"
        )
    return (SyncedAudit if chosen.fsync == "always" else Audit)(open_spool, metrics, folder)
