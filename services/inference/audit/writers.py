"""Writers of audit records: each durability decides where a record is before its answer."""

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
    """Writes records, all of a call or none."""

    def append_many(self, payloads: Sequence[bytes], /) -> None: ...

    def close(self) -> None: ...


class Unwritten:
    """A writer that drops all records, for the durability `off`."""

    def append_many(self, payloads: Sequence[bytes], /) -> None:
        pass

    def close(self) -> None:
        pass


class Audit:
    """Appends records to the writer and counts refused ones.

    If the writer cannot be opened, it is tried again, and no request is answered until then.

    `off` is true if no record is kept. `waits` is true if an append may wait for the disk (fsync
    `always`) or for PostgreSQL (`commit`). Then only the asynchronous methods may be called.
    Appends that wait at the same time share one fsync or one poll.
    """

    off = waits = False

    def __init__(self, open_writer: Callable[[], Writer], metrics: Metrics, folder: Path) -> None:
        """`folder` holds the in-memory counts of processes that have ended."""
        self._open, self._metrics, self._folder = open_writer, metrics, folder
        self._writer: Writer | None = None
        self._tried = float("-inf")

    def put(self, records: Sequence[bytes]) -> None:
        """Append all records or none; call it only if `waits` is false.

        Raises SpoolFullError or StoreDownError; nothing is written then.
        """
        try:
            (self._writer or self._opened()).append_many(records)
        except StoreDownError:
            self._metrics.refused(len(records))
            raise

    async def append(self, record: bytes) -> None:
        """Append one record; raises as `append_many` does."""
        await self.append_many((record,))

    async def append_many(self, records: Sequence[bytes]) -> None:
        """Append all records or none.

        Raises SpoolFullError or StoreDownError. Nothing is written then, but with `commit` all
        records may be.
        """
        self.put(records)

    async def close(self) -> None:
        if self._writer:
            await asyncio.to_thread(self._writer.close)

    def open(self) -> None:
        """Open the writer when the worker starts, and report records that were lost.

        A failure is only logged: the worker must start even if the disk is full now.
        """
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
    """Audits nothing; used to measure the cost of the audit."""

    off = True

    def open(self) -> None:
        super().open()
        logger.error(
            "NOTHING IS AUDITED: FRAUDOPS_AUDIT__DURABILITY is off, which is for measuring only"
        )


class SyncedAudit(Audit):
    """Waits for the fsync of each record, in a thread."""

    waits = True

    async def append_many(self, records: Sequence[bytes]) -> None:
        try:
            await asyncio.to_thread(self._opened().append_many, records)
        except StoreDownError:
            self._metrics.refused(len(records))
            raise


class CommittedAudit(Audit):
    """Waits for PostgreSQL; with `blocking` first for the fsync, in a thread."""

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
            # Before the write: a request that is refused here must leave no row.
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
    """Return the audit for the setting `audit.durability`; call it after the fork."""
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
