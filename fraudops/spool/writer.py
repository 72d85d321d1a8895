"""The writing side of the spool: one `write` that returned before the answer leaves."""

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from fraudops.errors import SpoolFullError, StoreDownError
from fraudops.files import sync_folder
from fraudops.spool.frames import encode_frame
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import Segment, create_segment, new_series, spool_bytes

logger = logging.getLogger(__name__)
COUNT_SECONDS = 0.1
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Place:
    """Where records end that were appended.

    `descriptor` is the receiver's to close: while it is open the segment belongs to its writer,
    so that no shipper removes it and no pod takes it over.
    """

    segment: str
    end: int
    descriptor: int


class SpoolWriter:
    """Appends records to segments of its own in a folder that many writers share; safe to use from
    several threads.

    What an append that returned survives: always the process and the container; the node too
    with fsync `always`, with `interval` all but the last fsync_interval_ms, with `never` what
    the kernel wrote back. The bound is on the segments of all writers together; each counts them
    every 100 ms and whenever it has written a 32nd of the bound, so that they may exceed it by
    so much each. Make it after the fork: it has a thread.
    """

    def __init__(self, folder: Path, writer: str, options: SpoolOptions) -> None:
        """Creates the folder and a first segment. Raises StoreDownError when the disk refuses."""
        self._folder, self._writer, self._options = folder, writer, options
        self._series, self._sequence = new_series(), 0
        self._always, self._never = options.fsync == "always", options.fsync == "never"
        self._limit = max(
            options.max_bytes // 1024,
            min(options.segment_bytes, options.max_bytes // 16),
        )
        self._lock, self._sync_lock = threading.Lock(), threading.Lock()
        self._stopping, self._due = threading.Event(), threading.Event()
        self._descriptor = -1
        self._retired: list[int] = []
        self._size = self._ordinal = self._ended = 0
        self._maximum = options.max_bytes
        self._written = self._synced = 0
        self._full = self._folder_dirty = False
        self.fsync_failures = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._grant(spool_bytes(folder))
        except OSError as error:
            raise _refusal(error) from error
        self._open()
        self._thread = threading.Thread(target=self._keep, name="spool", daemon=True)
        self._thread.start()

    @property
    def used_bytes(self) -> int:
        """The bytes of all writers' segments, as last counted."""
        return self._used

    def append(self, payload: bytes) -> None:
        """One record.

        Raises SpoolFullError when there is no room, StoreDownError when the disk refuses; then
        nothing was written.
        """
        with self._lock:
            failures = self.fsync_failures
            self._write(encode_frame(self._ordinal, payload), 1)
        if self._always:
            self._sync(failures)

    def append_many(self, payloads: Sequence[bytes]) -> None:
        """All of them by one write, or none. Raises as `append` does."""
        with self._lock:
            failures = self.fsync_failures
            self._write(b"".join(map(encode_frame, count(self._ordinal), payloads)), len(payloads))
        if self._always:
            self._sync(failures)

    def append_placed(self, payloads: Sequence[bytes]) -> Place:
        """As `append_many`, for who wants to know when they have left the spool."""
        with self._lock:
            failures = self.fsync_failures
            self._write(b"".join(map(encode_frame, count(self._ordinal), payloads)), len(payloads))
            place = self._place()
        try:
            if self._always:
                self._sync(failures)
        except StoreDownError:
            os.close(place.descriptor)
            raise
        return place

    def lift_maximum(self) -> None:
        """What is appended from now on is refused by the disk alone: for what was answered already
        and is nowhere else.
        """
        with self._lock:
            self._maximum = sys.maxsize
            self._grant(self._used)

    def close(self) -> None:
        """Syncs what the policy says and gives the segment up. Appending afterwards is an error."""
        self._stopping.set()
        self._due.set()
        self._thread.join()
        with self._lock:
            self._retire()
        with self._sync_lock:
            self._settle()

    def _place(self) -> Place:
        """Of what was written last; it may have filled its segment."""
        live = self._descriptor >= 0
        try:
            descriptor = os.dup(self._descriptor if live else self._retired[-1])
        except OSError as error:
            raise _refusal(error) from error
        return Place(
            Segment(self._series, self._sequence, self._writer).name,
            self._size if live else self._ended,
            descriptor,
        )

    def _write(self, frames: bytes, records: int) -> None:
        size = len(frames)
        if size > self._room:
            self._make_room(size)
        if self._descriptor < 0:
            self._open()
        try:
            written = os.write(self._descriptor, frames)
        except OSError as error:
            raise _refusal(error) from error
        if written != size:
            self._undo(records)
            raise SpoolFullError(f"the disk of the audit spool is full: {self._folder}")
        self._ordinal += records
        self._size += size
        self._written += size
        self._room -= size
        if self._size >= self._limit:
            self._retire()

    def _make_room(self, size: int) -> None:
        """Counts; once found full, only the thread looks again, so that refusing stays cheap."""
        if not self._full:
            try:
                self._grant(spool_bytes(self._folder), size)
            except OSError as error:
                raise _refusal(error) from error
        if size > self._room:
            self._full = True
            raise SpoolFullError(
                "the audit spool is full: nothing is scored unaudited. Is PostgreSQL reachable, and does the shipper run?"
            )

    def _grant(self, used: int, wanted: int = 0) -> None:
        """Room until the next count."""
        self._used = used
        self._room = min(self._maximum - used, max(self._maximum // 32, wanted))

    def _undo(self, records: int) -> None:
        """Takes half a write back.

        Of several frames a reader may have taken the first ones and stand behind them: then
        nothing may follow in this segment.
        """
        try:
            os.ftruncate(self._descriptor, self._size)
            spoilt = records > 1
        except OSError:
            spoilt = True
        if spoilt:
            self._retire()

    def _open(self) -> None:
        if self._stopping.is_set():
            raise ValueError("the spool writer is closed")
        try:
            descriptor = None
            while descriptor is None:
                self._sequence += 1
                descriptor = create_segment(
                    self._folder, Segment(self._series, self._sequence, self._writer)
                )
        except OSError as error:
            raise _refusal(error) from error
        self._descriptor = descriptor
        self._folder_dirty = not self._never

    def _retire(self, soon: bool = True) -> None:
        """The next append opens a new segment; the thread syncs and closes this one, which frees
        its lock: what follows is shipped only then.
        """
        if self._descriptor >= 0:
            self._retired.append(self._descriptor)
            self._descriptor = -1
            self._ended = self._size
            self._size = self._ordinal = 0
            if soon:
                self._due.set()

    def _sync(self, failures: int) -> None:
        """Group commit: whoever comes while another thread syncs is mostly covered by that.

        Raises StoreDownError if any sync since the append failed.
        """
        mine = self._written
        with self._sync_lock:
            if self._synced < mine:
                self._settle()
        if self.fsync_failures != failures:
            raise StoreDownError("the disk of the audit spool does not sync; check its volume")

    def _settle(self) -> None:
        """Everything written so far goes to the disk, and finished segments are closed.

        Needs the sync lock.

        After a failed fsync the kernel may forget the pages, and a second one would lie: the
        segment ends there.
        """
        with self._lock:
            goal, current, folder_dirty = self._written, self._descriptor, self._folder_dirty
            finished, self._retired, self._folder_dirty = self._retired, [], False
        try:
            if folder_dirty:
                sync_folder(self._folder)
            if not self._never and self._synced != goal:
                for descriptor in [*finished, current]:
                    if descriptor >= 0:
                        os.fdatasync(descriptor)
            self._synced = goal
        except OSError as error:
            logger.error("fsync of the audit spool failed", extra={"errno": _errno(error)})
            with self._lock:
                self.fsync_failures += 1
                self._retire(soon=False)
        finally:
            for descriptor in finished:
                os.close(descriptor)

    def _keep(self) -> None:
        """The thread: syncs by the policy, closes finished segments, counts the folder's bytes."""
        pause = (
            COUNT_SECONDS if self._always or self._never else self._options.fsync_interval_ms / 1000
        )
        counted = 0.0
        while True:
            self._due.wait(pause)
            self._due.clear()
            if self._stopping.is_set():
                return
            with self._sync_lock:
                self._settle()
            if time.monotonic() - counted >= COUNT_SECONDS:
                self._count()
                counted = time.monotonic()

    def _count(self) -> None:
        """When the folder is full, what we hold is given up, so that the shipper can remove it."""
        before = self._written
        try:
            counted = spool_bytes(self._folder)
        except OSError as error:
            logger.error("the spool folder cannot be read", extra={"errno": _errno(error)})
            return
        with self._lock:
            # What was appended while we counted is perhaps counted twice, until the next time.
            self._grant(counted + self._written - before)
            if self._size and (self._full or (self._room < self._limit < 16 * self._size)):
                self._retire()
            self._full = False


def _refusal(error: OSError) -> StoreDownError:
    if error.errno in NO_ROOM:
        return SpoolFullError("the disk of the audit spool is full: nothing is scored unaudited")
    return StoreDownError(f"the audit spool cannot be written ({_errno(error)}); check its volume")


def _errno(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "error")
