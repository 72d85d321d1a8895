"""Looks into a spool or a segment without locking, adopting or changing anything: for those who
count, not for those who ship.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fraudops.spool.frames import MAX_FRAME, frame_at, next_frame
from fraudops.spool.position import POSITION, Position, read_position
from fraudops.spool.reader import CHUNK
from fraudops.spool.segments import list_segments


@dataclass
class ScanResult:
    """What was passed on the way: `damaged` stretches that no record could be read from, an
    unfinished last write among them.
    """

    damaged: int = 0


def unshipped_payloads(folder: Path) -> Iterator[bytes]:
    """The payloads that are not yet recorded as safe elsewhere.

    A segment that is shipped and removed meanwhile is passed over.
    """
    if not folder.is_dir():
        return
    for segment in list_segments(folder):
        position = read_position(folder / (segment.name + POSITION)) or Position()
        try:
            yield from payloads(folder / segment.name, position.offset)
        except FileNotFoundError:
            continue


def payloads(path: Path, start: int = 0, seen: ScanResult | None = None) -> Iterator[bytes]:
    """Every payload of a segment that can be read, whatever lies between. Raises OSError."""
    seen = seen or ScanResult()
    with path.open("rb") as file:
        file.seek(start)
        data, damaged = file.read(CHUNK), False
        while data:
            offset = 0
            while frame := frame_at(data, offset):
                yield frame.payload
                offset, damaged = frame.end, False
            if len(data) - offset < MAX_FRAME and (more := file.read(CHUNK)):
                data = data[offset:] + more
                continue
            if offset == len(data):
                return
            seen.damaged += not damaged
            damaged = True
            following = next_frame(data, offset + 1)
            if following is None:
                following = (
                    max(offset + 1, len(data) - MAX_FRAME)
                    if (more := file.read(CHUNK))
                    else len(data)
                )
                data = data[following:] + more
            else:
                data = data[following:]
