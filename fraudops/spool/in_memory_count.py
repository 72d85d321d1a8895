"""Counts of the records that processes hold only in memory.

Each process keeps its count in a file that outlives it. After a process is killed, another one
reads the file and counts the lost records.
"""

import fcntl
import mmap
import os
import struct
from pathlib import Path

from fraudops.errors import StoreDownError
from fraudops.ids import uuid7
from fraudops.spool.segments import adopt

SUFFIX = ".held"
_number = struct.Struct("<Q")


class InFlightCounter:
    """A memory-mapped counter of the records that this process holds only in memory.

    It survives SIGKILL and needs no write call per update. The process owns the file through
    `flock`. The file is never fsynced: losing the node loses the counted records too.
    """

    def __init__(self, folder: Path) -> None:
        """Create the file of the counter. Raises StoreDownError when the disk refuses."""
        self._held = 0
        try:
            self._path, self._descriptor = _create(folder)
        except OSError as error:
            raise StoreDownError(
                f"the file that counts the records in memory cannot be created in {folder} "
                f"({error.strerror}): check the disk"
            ) from error
        self._map = mmap.mmap(self._descriptor, _number.size)

    def add(self, count: int) -> None:
        self._held += count
        _number.pack_into(self._map, 0, self._held)

    def close(self) -> None:
        """Close the file, and delete it unless records are still held.

        A file that stays lets another process count those records as lost.
        """
        if not self._held:
            self._path.unlink(missing_ok=True)
        self._map.close()
        os.close(self._descriptor)


def _create(folder: Path) -> tuple[Path, int]:
    """Create and lock a file of the counter; return its path and its descriptor."""
    while True:
        path = folder / f"{uuid7()}{SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Allocate the block now. Writing to a hole in a mapped file kills the process with
            # SIGBUS if the disk is full at that time.
            os.posix_fallocate(descriptor, 0, _number.size)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        # Between open and flock, `collect_lost` of another process may have taken the file for an
        # abandoned one and deleted it. Then try again with a new name.
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def collect_lost(folder: Path) -> int:
    """Return how many records ended processes held in memory, and delete their files.

    The number is an upper limit: a process that ended after writing records to the spool may not
    have subtracted them yet. Each file is counted by one caller only.
    """
    lost = 0
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            # A file without a link was counted and deleted by another caller after our open.
            if adopt(descriptor) and os.fstat(descriptor).st_nlink:
                content = os.pread(descriptor, _number.size, 0)
                lost += _number.unpack(content)[0] if len(content) == _number.size else 0
                path.unlink()
        finally:
            os.close(descriptor)
    return lost
