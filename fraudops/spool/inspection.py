"""Read-only inspection of a spool or a segment, for counting and for replay.

Nothing here locks, adopts or changes a file, so that it may run next to the shipper.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fraudops.spool.frames import MAX_FRAME, frame_at, next_frame
from fraudops.spool.position import POSITION, Position, read_position
from fraudops.spool.segment_reader import CHUNK
from fraudops.spool.segments import list_segments


@dataclass
class ScanResult:
    """The number of damaged stretches of a segment, an unfinished last write included."""

    damaged: int = 0


def unshipped_payloads(folder: Path) -> Iterator[bytes]:
    """Yield the payloads after the recorded position of each segment.

    A segment that is shipped and deleted during the scan is skipped. Raises OSError.
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
    """Yield every readable payload of a segment, and skip damaged stretches.

    Raises OSError.
    """
    seen = seen or ScanResult()
    with path.open("rb") as file:
        file.seek(start)
        data, in_damage = file.read(CHUNK), False
        while data:
            offset = 0
            while frame := frame_at(data, offset):
                yield frame.payload
                offset, in_damage = frame.end, False
            # The rest may be the beginning of a valid frame: read on before calling it damaged.
            if len(data) - offset < MAX_FRAME and (more := file.read(CHUNK)):
                data = data[offset:] + more
                continue
            if offset == len(data):
                return
            # One stretch may extend over several chunks, and counts once.
            seen.damaged += not in_damage
            in_damage = True
            following = next_frame(data, offset + 1)
            if following is None:
                # Keep the last MAX_FRAME bytes: a frame that continues in the next chunk may
                # begin in them.
                following = (
                    max(offset + 1, len(data) - MAX_FRAME)
                    if (more := file.read(CHUNK))
                    else len(data)
                )
                data = data[following:] + more
            else:
                data = data[following:]
