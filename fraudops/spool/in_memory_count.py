"""How many records a process holds in memory alone, in a file that outlives it: what a killed one
lost is counted by the next.
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
    """One number, mapped: it is there after a kill, and costs no write.

    Its owner's by `flock`; not synced, for what a node loses the node's memory held.
    """

    def __init__(self, folder: Path) -> None:
        """Raises StoreDownError when the disk refuses."""
        self._held = 0
        try:
            self._path, self._descriptor = _create(folder)
        except OSError as error:
            raise StoreDownError(
                f"what is held in memory cannot be counted ({error.strerror}): check the disk of {folder}"
            ) from error
        self._map = mmap.mmap(self._descriptor, _number.size)

    def add(self, count: int) -> None:
        self._held += count
        _number.pack_into(self._map, 0, self._held)

    def close(self) -> None:
        """Leaves the file when something is still held."""
        if not self._held:
            self._path.unlink(missing_ok=True)
        self._map.close()
        os.close(self._descriptor)


def _create(folder: Path) -> tuple[Path, int]:
    """Again if somebody took it for a dead one's before we held its lock."""
    while True:
        path = folder / f"{uuid7()}{SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # A mapped hole would kill the process on a disk that is full by then.
            os.posix_fallocate(descriptor, 0, _number.size)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)


def collect_lost(folder: Path) -> int:
    """What processes that have ended held, at most: a record that was written, and not yet taken
    off, counts too. Each is counted by one caller.
    """
    lost = 0
    for path in folder.glob(f"*{SUFFIX}"):
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            if adopt(descriptor) and os.fstat(descriptor).st_nlink:
                content = os.pread(descriptor, _number.size, 0)
                lost += _number.unpack(content)[0] if len(content) == _number.size else 0
                path.unlink()
        finally:
            os.close(descriptor)
    return lost
