"""Segment files: names, listing, size, and locks."""

import contextlib
import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

from fraudops.files import try_lock
from fraudops.ids import uuid7

SUFFIX = ".seg"
# Folders inside the spool. The first holds dead letters, the second records of kinds that only a
# newer release knows. Both hold files of the same form.
ASIDE, NEWER = "aside", "newer"
# The suffix of these files.
LETTERS = ".jsonl"
# Prefix of a file that another pod is handing over, until the file is complete.
INCOMING = ".incoming-"
_NAME = re.compile(
    r"(?P<writer>[A-Za-z0-9._-]{1,100})\.(?P<series>[0-9a-f]{32})\.(?P<sequence>[0-9]{8})\.seg"
)
_WRITER = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, order=True)
class Segment:
    """The name of one file of a series. A series holds everything that one writer wrote.

    The series is a UUIDv7 in hexadecimal digits. Segments therefore sort by age, and no name is
    ever used twice: a recorded position cannot be applied to another file.
    """

    series: str
    sequence: int
    writer: str

    @property
    def name(self) -> str:
        return f"{self.writer}.{self.series}.{self.sequence:08d}{SUFFIX}"


def new_series() -> str:
    return uuid7().replace("-", "")


def parse_segment(name: str) -> Segment | None:
    """Return the segment of a file name, or None for the name of another file."""
    match = _NAME.fullmatch(name)
    return Segment(match["series"], int(match["sequence"]), match["writer"]) if match else None


def list_segments(folder: Path) -> list[Segment]:
    """Return the segments of a folder, the oldest series first, each in its order."""
    segments = (parse_segment(path.name) for path in folder.iterdir())
    return sorted(segment for segment in segments if segment)


def spool_bytes(folder: Path) -> int:
    """Return the bytes of all segments of all writers. Raises OSError."""
    return bytes_of(folder, SUFFIX)


def room_bytes(folder: Path) -> int:
    """Return the bytes that count towards the size limit of a spool. Raises OSError.

    These are the segments, the dead letters, and the records for a newer release.
    """
    total = spool_bytes(folder)
    for name in (ASIDE, NEWER):
        with contextlib.suppress(FileNotFoundError):
            total += bytes_of(folder / name, LETTERS)
    return total


def bytes_of(folder: Path, suffix: str) -> int:
    """Return the bytes of the files in a folder whose names end with `suffix`. Raises OSError.

    A file that is deleted during the count is not included.
    """
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(suffix):
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat().st_size
    return total


def create_segment(folder: Path, segment: Segment) -> int | None:
    """Create a segment and return its descriptor, which holds the lock.

    Returns None if a shipper deleted the segment as abandoned before this process held the lock.
    Raises OSError, and ValueError for a bad writer name.
    """
    if not _WRITER.fullmatch(segment.writer):
        raise ValueError(
            "the name of a spool writer must have 1 to 100 letters, digits, dots, underscores "
            "or hyphens"
        )
    descriptor = os.open(
        folder / segment.name,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
        0o600,
    )
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    # Without a link the file was deleted after our open: records in it would be lost.
    if os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)
    return None


def adopt(descriptor: int) -> bool:
    """Try to lock a segment that has no writer any more; return whether this process holds it.

    No writer ever appends to an adopted segment again. Raises OSError.
    """
    return try_lock(descriptor)
