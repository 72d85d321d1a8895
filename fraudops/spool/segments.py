"""Segment files: their names, which exist, who holds them, and how much room they take."""

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
# Before the name of what another pod is handing over and has not yet whole.
INCOMING = ".incoming-"
_NAME = re.compile(
    r"(?P<writer>[A-Za-z0-9._-]{1,100})\.(?P<series>[0-9a-f]{32})\.(?P<sequence>[0-9]{8})\.seg"
)
_WRITER = re.compile(r"[A-Za-z0-9._-]{1,100}")


@dataclass(frozen=True, order=True)
class Segment:
    """One file of a series: what one writer wrote from its start to its end.

    The series is a UUIDv7 in hexadecimal digits, so that segments sort by age and no name ever
    comes twice: a recorded position cannot meet another file.
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
    """The segment of that file name, None if it is none."""
    match = _NAME.fullmatch(name)
    return Segment(match["series"], int(match["sequence"]), match["writer"]) if match else None


def list_segments(folder: Path) -> list[Segment]:
    found = (parse_segment(path.name) for path in folder.iterdir())
    return sorted(segment for segment in found if segment)


def spool_bytes(folder: Path) -> int:
    """The bytes of all segments of all writers.

    A segment that goes while we count is not counted.
    """
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIX):
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat().st_size
    return total


def create_segment(folder: Path, segment: Segment) -> int | None:
    """A new file and its descriptor, which holds the lock.

    None if a shipper took it for abandoned and removed it before we held the lock.

    Raises OSError; ValueError for a bad writer name.
    """
    if not _WRITER.fullmatch(segment.writer):
        raise ValueError(
            "a spool writer's name is 1 to 100 of letters, digits, dot, underscore and hyphen"
        )
    descriptor = os.open(
        folder / segment.name,
        os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
        0o600,
    )
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    if os.fstat(descriptor).st_nlink:
        return descriptor
    os.close(descriptor)
    return None


def adopt(descriptor: int) -> bool:
    """True if the segment was nobody's and is now ours: no writer will ever append to it again."""
    return try_lock(descriptor)
