"""Records in memory on their way to the spool: what the durability `memory` answers on."""

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
PAUSE_SECONDS, AGAIN_SECONDS, LAST_SECONDS = 0.003, 0.1, 1.0
# So much goes by one write. Encoding it takes a fraction of a millisecond, in which this thread may
# hold the interpreter's lock.
PIECE = 128 << 10


class MemoryWriter:
    """Takes what a SpoolWriter takes, as long as `maximum` bytes hold it; a thread brings it to the
    spool every few milliseconds, in order.

    A process that is killed loses what it holds: the last milliseconds', or all since the spool
    began to refuse. The tally outlives it and says at most how many records that was. One that
    is closed loses nothing but what the disk refuses for a second, and says so in its tally too.
    """

    def __init__(self, open_spool: Callable[[], SpoolWriter], maximum: int, folder: Path) -> None:
        """`folder` is for the tally. Raises StoreDownError when the disk refuses."""
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
        """All of them or none.

        Raises SpoolFullError when they do not fit, StoreDownError once it is closed.
        """
        size = sum(map(len, payloads))
        if size > MAX_PAYLOAD and (largest := max(map(len, payloads))) > MAX_PAYLOAD:
            raise ValueError(f"a record of {largest} bytes is larger than {MAX_PAYLOAD}")
        with self._lock:
            if self._stopping.is_set():
                raise StoreDownError("the worker stops: nothing is scored unaudited")
            if self._bytes + size > self._maximum:
                raise SpoolFullError(
                    "memory is full of what the audit spool has not taken yet: nothing is scored unaudited"
                )
            self._bytes += size
            self._in_flight.add(len(payloads))
            self._held.extend(payloads)

    def close(self) -> None:
        """What is held has been answered: only the disk refuses it now, not the spool's maximum."""
        with self._lock:
            self._stopping.set()
        self._thread.join()
        self._spool.lift_maximum()
        end = time.monotonic() + LAST_SECONDS
        while not self._flush() and time.monotonic() < end:
            time.sleep(AGAIN_SECONDS / 2)
        if self._held:
            logger.error(
                "answers are lost: the audit spool does not take them",
                extra={"records": len(self._held)},
            )
        self._spool.close()
        self._in_flight.close()

    def _keep(self) -> None:
        """The thread."""
        pause = PAUSE_SECONDS
        while not self._stopping.wait(pause):
            pause = PAUSE_SECONDS if self._flush() else AGAIN_SECONDS

    def _flush(self) -> bool:
        """False when the spool refuses: then all that it has not taken stays."""
        while piece := self._first():
            try:
                self._spool.append_many(piece)
            except StoreDownError as error:
                if not self._refused:
                    logger.error(
                        "answers wait in memory: the audit spool does not take them",
                        extra={"reason": str(error)},
                    )
                self._refused = True
                return False
            self._refused = False
            with self._lock:
                for _ in piece:
                    self._held.popleft()
                self._bytes -= sum(map(len, piece))
                self._in_flight.add(-len(piece))
        return True

    def _first(self) -> list[bytes]:
        """About a piece, one record at least if there is one."""
        with self._lock:
            room, count = PIECE, 0
            for payload in self._held:
                room -= len(payload)
                if room < 0 and count:
                    break
                count += 1
            return list(islice(self._held, count))
