"""The worker's end of the audit spool."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from fraudops.errors import StoreDownError
from fraudops.spool import SpoolWriter
from services.inference.metrics import Metrics

logger = logging.getLogger(__name__)
REOPEN_SECONDS = 1.0


class Audit:
    """Appends and counts refusals. A spool that cannot be opened is tried again, and nothing is answered until then.

    With `blocking` (fsync always) an append waits for the disk, so it leaves the event loop; threads that wait together share one fsync.
    """

    def __init__(self, open_spool: Callable[[], SpoolWriter], metrics: Metrics, *, blocking: bool) -> None:
        self._open, self._metrics, self._blocking = open_spool, metrics, blocking
        self._spool: SpoolWriter | None = None
        self._tried = float("-inf")

    @property
    def waits(self) -> bool:
        """An append may have to wait, so that only the asynchronous calls may be used."""
        return self._blocking

    def put(self, records: Sequence[bytes]) -> None:
        """All or none, at once; only where nothing waits. Raises as `append` does."""
        try:
            (self._spool or self._writer()).append_many(records)
        except StoreDownError:
            self._metrics.refused(len(records))
            raise

    async def append(self, record: bytes) -> None:
        """Raises SpoolFullError, StoreDownError; then nothing was written."""
        try:
            spool = self._spool or self._writer()
            if self._blocking:
                await asyncio.to_thread(spool.append, record)
            else:
                spool.append(record)
        except StoreDownError:
            self._metrics.refused(1)
            raise

    async def append_many(self, records: Sequence[bytes]) -> None:
        """All or none. Raises as `append` does."""
        try:
            spool = self._spool or self._writer()
            if self._blocking:
                await asyncio.to_thread(spool.append_many, records)
            else:
                spool.append_many(records)
        except StoreDownError:
            self._metrics.refused(len(records))
            raise

    def close(self) -> None:
        if self._spool:
            self._spool.close()

    def open(self) -> None:
        """At the worker's start: a disk that is full now must not keep the worker from living."""
        try:
            self._writer()
        except StoreDownError as error:
            logger.error("the audit spool cannot be opened", extra={"reason": str(error)})

    def _writer(self) -> SpoolWriter:
        if self._spool is None:
            if time.monotonic() - self._tried < REOPEN_SECONDS:
                raise StoreDownError("the audit spool cannot be opened: check its disk")
            self._tried = time.monotonic()
            self._spool = self._open()
        return self._spool
