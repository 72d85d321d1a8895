"""Records in memory on their way to the spool, for the durability `memory`."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

from fraudops.errors import SpoolFullError, StoreDownError
from fraudops.spool.frames import MAX_PAYLOAD
from fraudops.spool.in_memory_count import InFlightCounter
from fraudops.spool.writer import SpoolWriter

logger = logging.getLogger(__name__)
# Seconds between two writes, seconds before the next try after a refused write, and seconds for
# which `close` keeps trying.
PAUSE_SECONDS, AGAIN_SECONDS, LAST_SECONDS = 0.003, 0.1, 1.0
# Bytes of one write. While this thread encodes them, it may hold the interpreter's lock, and no
# request is answered: 128 KiB take a fraction of a millisecond.
BATCH_BYTES = 128 << 10


class MemoryWriter:
    """Accepts records as a SpoolWriter does, and holds at most `maximum` bytes of them.

    A thread writes them to the spool every few milliseconds, in order. A process that is killed
    loses the records that it holds. These are the records of the last milliseconds, or all since
    the spool began to refuse. Its InFlightCounter outlives it and gives an upper limit of their
    number. A process that calls `close` loses only records that the disk refuses for
    LAST_SECONDS. The counter still counts those.
    """

    def __init__(self, open_spool: Callable[[], SpoolWriter], maximum: int, folder: Path) -> None:
        """Open the spool and start the thread. The counter is kept in `folder`.

        Raises StoreDownError when the disk refuses.
        """
        self._maximum, self._in_flight = maximum, InFlightCounter(folder)
        try:
            self._spool = open_spool()
        except StoreDownError:
            self._in_flight.close()
            raise
        self._held: deque[bytes] = deque()
        self._bytes = 0
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._refused = False
        self._thread = threading.Thread(target=self._keep, name="memory", daemon=True)
        self._thread.start()

    def append_many(self, payloads: Sequence[bytes]) -> None:
        """Accept all of the records or none.

        Raises SpoolFullError when they do not fit, StoreDownError after `close`, and ValueError
        for a record that is too large.
        """
        size = sum(map(len, payloads))
        if size > MAX_PAYLOAD and (largest := max(map(len, payloads))) > MAX_PAYLOAD:
            raise ValueError(
                f"a record of {largest} bytes is larger than the limit of {MAX_PAYLOAD}"
            )
        with self._lock:
            if self._stopping.is_set():
                raise StoreDownError("the worker stops: it scores nothing that it cannot audit")
            if self._bytes + size > self._maximum:
                raise SpoolFullError(
                    "memory is full of records that the audit spool has not accepted yet: nothing "
                    "is scored unaudited. Check the disk of the spool"
                )
            self._bytes += size
            # Count first, for the same reason as in `_flush`: a kill may happen between the lines.
            self._in_flight.add(len(payloads))
            self._held.extend(payloads)

    def close(self) -> None:
        """Write what is held to the spool, and close it. Later calls of `append_many` fail."""
        with self._lock:
            self._stopping.set()
        self._thread.join()
        # Their answers were sent already, so the spool's size limit must not refuse these records.
        self._spool.lift_maximum()
        end = time.monotonic() + LAST_SECONDS
        while not self._flush() and time.monotonic() < end:
            time.sleep(AGAIN_SECONDS / 2)
        if self._held:
            logger.error(
                "audit records are lost: the audit spool did not accept them in time",
                extra={"records": len(self._held)},
            )
        self._spool.close()
        self._in_flight.close()

    def _keep(self) -> None:
        """Run the thread: flush every few milliseconds, and less often after a refusal."""
        pause = PAUSE_SECONDS
        while not self._stopping.wait(pause):
            pause = PAUSE_SECONDS if self._flush() else AGAIN_SECONDS

    def _flush(self) -> bool:
        """Write everything held; return False when the spool refuses, and keep the rest."""
        while batch := self._next_batch():
            try:
                self._spool.append_many(batch)
            except StoreDownError as error:
                # Log only the first of several refusals: there are ten tries a second.
                if not self._refused:
                    logger.error(
                        "audit records wait in memory: the audit spool does not accept them",
                        extra={"reason": str(error)},
                    )
                self._refused = True
                return False
            self._refused = False
            # Remove records only after the write: a kill in between must count too many lost
            # records, never too few.
            with self._lock:
                for _ in batch:
                    self._held.popleft()
                self._bytes -= sum(map(len, batch))
                self._in_flight.add(-len(batch))
        return True

    def _next_batch(self) -> list[bytes]:
        """Return the oldest records, about BATCH_BYTES of them, at least one if any is held."""
        with self._lock:
            room, count = BATCH_BYTES, 0
            for payload in self._held:
                room -= len(payload)
                if room < 0 and count:
                    break
                count += 1
            return list(islice(self._held, count))
