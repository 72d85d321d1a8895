"""The writing side of the spool.

An append is one `write` call. It returns before the answer is sent.
"""

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from fraudops.errors import SpoolFullError, StoreDownError
from fraudops.files import sync_folder
from fraudops.spool.frames import encode_frame
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import Segment, create_segment, new_series, room_bytes

logger = logging.getLogger(__name__)
COUNT_SECONDS = 0.1
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Place:
    """The segment and the offset where appended records end.

    The receiver must close `descriptor`. While it is open, the segment stays locked, so that no
    shipper deletes it and no other pod takes it over.
    """

    segment: str
    end: int
    descriptor: int


class SpoolWriter:
    """Appends records to segments of one series, in a folder that many writers share.

    It is safe to use from several threads. Create it after forking, because it starts a thread.

    A returned append always survives process and container exit. On node loss: `always` loses
    nothing, `interval` the last fsync_interval_ms, `never` whatever the kernel had not written
    back.

    The size limit holds for the segments of all writers, the dead letters and the records for a
    newer release together. Each writer counts them every 100 ms, and whenever it has written a 32nd
    of the limit. Each may exceed the limit by that much. `used_bytes` counts the bytes of a folder.
    """

    def __init__(
        self,
        folder: Path,
        writer: str,
        options: SpoolOptions,
        used_bytes: Callable[[Path], int] = room_bytes,
    ) -> None:
        """Create the folder and a first segment. Raises StoreDownError when the disk refuses."""
        self._used_bytes = used_bytes
        self._folder, self._writer, self._options = folder, writer, options
        self._series, self._sequence = new_series(), 0
        self._always, self._never = options.fsync == "always", options.fsync == "never"
        # A segment is a small part of the spool, because the shipper deletes whole segments only.
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
            self._grant(used_bytes(folder))
        except OSError as error:
            raise _refusal(error) from error
        self._open()
        self._thread = threading.Thread(target=self._keep, name="spool", daemon=True)
        self._thread.start()

    def append(self, payload: bytes) -> None:
        """Append one record.

        Raises SpoolFullError when there is no room, and StoreDownError when the disk refuses. The
        record then counts as not written, although after a failed fsync it may still be shipped.
        """
        with self._lock:
            failures = self.fsync_failures
            self._write(encode_frame(self._ordinal, payload), 1)
        if self._always:
            self._sync(failures)

    def append_many(self, payloads: Sequence[bytes]) -> None:
        """Append all of the records with one write, or none. Raises the errors of `append`."""
        with self._lock:
            failures = self.fsync_failures
            self._write(b"".join(map(encode_frame, count(self._ordinal), payloads)), len(payloads))
        if self._always:
            self._sync(failures)

    def append_placed(self, payloads: Sequence[bytes]) -> Place:
        """Append as `append_many` does, and return where the records end.

        The caller compares that with the shipper's position to learn when they are shipped.
        """
        with self._lock:
            failures = self.fsync_failures
            self._write(b"".join(map(encode_frame, count(self._ordinal), payloads)), len(payloads))
            # Within the lock: another append may retire the segment.
            place = self._place()
        try:
            if self._always:
                self._sync(failures)
        except StoreDownError:
            os.close(place.descriptor)
            raise
        return place

    def lift_maximum(self) -> None:
        """Drop the size limit, for records that were answered already and exist nowhere else.

        From now on only the disk refuses an append.
        """
        with self._lock:
            self._maximum = sys.maxsize
            self._grant(self._used)

    def close(self) -> None:
        """Sync as the policy says, and unlock the segment.

        Appending afterwards raises ValueError.
        """
        self._stopping.set()
        self._due.set()
        self._thread.join()
        with self._lock:
            self._retire()
        with self._sync_lock:
            self._settle()

    def _place(self) -> Place:
        """Return where the last write ended. Needs the lock."""
        # If the write filled its segment, that segment is now the last retired one.
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
        """Write the frames to the current segment, or none of them. Needs the lock."""
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
        """Recount the spool. Raises SpoolFullError when `size` bytes do not fit.

        Once it is full, only the background thread recounts, so that refusing stays cheap.
        """
        if not self._full:
            try:
                self._grant(self._used_bytes(self._folder), size)
            except OSError as error:
                raise _refusal(error) from error
        if size > self._room:
            self._full = True
            raise SpoolFullError(
                "the audit spool is full: nothing is scored unaudited. Is PostgreSQL reachable, "
                "and does the shipper run?"
            )

    def _grant(self, used: int, needed: int = 0) -> None:
        """Set the bytes that may be written until the next count."""
        self._used = used
        self._room = min(self._maximum - used, max(self._maximum // 32, needed))

    def _undo(self, records: int) -> None:
        """Roll back a short write.

        If it held several frames, a reader may already have consumed some of them. Then the
        segment is retired and never appended to again: a new frame could start before the reader's
        position.
        """
        try:
            os.ftruncate(self._descriptor, self._size)
            unusable = records > 1
        except OSError:
            # The rest of a frame stays at the end: a reader takes it for a torn tail.
            unusable = True
        if unusable:
            self._retire()

    def _open(self) -> None:
        """Open a new segment. Needs the lock."""
        if self._stopping.is_set():
            raise ValueError("the spool writer is closed")
        try:
            # create_segment returns None if a shipper deleted the new file before it was locked.
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

    def _retire(self, wake_thread: bool = True) -> None:
        """End the current segment: the next append opens a new one. Needs the lock.

        The thread syncs and closes the ended segment, which frees its lock. The shipper starts the
        next segment only after that, so the thread is woken.
        """
        if self._descriptor >= 0:
            self._retired.append(self._descriptor)
            self._descriptor = -1
            self._ended = self._size
            self._size = self._ordinal = 0
            if wake_thread:
                self._due.set()

    def _sync(self, failures: int) -> None:
        """Sync everything that this thread has appended.

        Raises StoreDownError if a sync since the append failed.
        """
        # Group commit: a caller that arrives during another thread's fsync is usually covered by
        # the next one.
        appended = self._written
        with self._sync_lock:
            if self._synced < appended:
                self._settle()
        # The failed sync may have been another thread's, so compare counts.
        if self.fsync_failures != failures:
            raise StoreDownError("the disk of the audit spool does not sync: check its volume")

    def _settle(self) -> None:
        """Sync everything written so far, and close retired segments. Needs the sync lock."""
        with self._lock:
            goal, current, folder_dirty = self._written, self._descriptor, self._folder_dirty
            finished, self._retired, self._folder_dirty = self._retired, [], False
        try:
            # Without its name in the folder, a synced segment is lost with the node.
            if folder_dirty:
                sync_folder(self._folder)
            if not self._never and self._synced != goal:
                for descriptor in [*finished, current]:
                    if descriptor >= 0:
                        os.fdatasync(descriptor)
            self._synced = goal
        except OSError as error:
            logger.error("fsync of the audit spool failed", extra={"errno": _errno(error)})
            # After a failed fsync the kernel may drop the dirty pages, and the next fsync of this
            # file may report success although they are lost. So the segment ends here.
            with self._lock:
                self.fsync_failures += 1
                self._retire(wake_thread=False)
        finally:
            for descriptor in finished:
                os.close(descriptor)

    def _keep(self) -> None:
        """Run the thread: sync by the policy, close retired segments, count the spool."""
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
        """Recount the spool, and retire the current segment when the spool is nearly full.

        The shipper deletes only segments without a writer, so retiring lets it make room.
        """
        before = self._written
        try:
            counted = self._used_bytes(self._folder)
        except OSError as error:
            logger.error("the spool folder cannot be read", extra={"errno": _errno(error)})
            return
        with self._lock:
            # Bytes appended during the count may be counted twice, until the next count.
            self._grant(counted + self._written - before)
            # A segment of less than a 16th of its limit stays: retiring it frees too little.
            if self._size and (self._full or (self._room < self._limit < 16 * self._size)):
                self._retire()
            self._full = False


def _refusal(error: OSError) -> StoreDownError:
    """Return the error to raise when the disk refuses a write."""
    if error.errno in NO_ROOM:
        return SpoolFullError("the disk of the audit spool is full: nothing is scored unaudited")
    return StoreDownError(f"the audit spool cannot be written ({_errno(error)}): check its volume")


def _errno(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, "error")
