"""Spool segments made from payloads, and all that a reader gets from a damaged one."""

import os
import random
import tempfile
from pathlib import Path

from fraudops.spool import SpoolReader
from fraudops.spool.frames import encode_frame
from fraudops.spool.position import POSITION, Position, read_position

NAME = "w.0123456789abcdef0123456789abcdef.00000001.seg"


class SegmentContents:
    """All that a reader gets from these bytes as the segment of a dead writer.

    `missing` counts lost records, `damaged` the damaged stretches.
    """

    def __init__(self, data: bytes, budget: int = 1 << 16) -> None:
        self.payloads: list[bytes] = []
        self.missing = self.damaged = 0
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / NAME).write_bytes(data)
            reader = SpoolReader(Path(folder))
            position = 0
            while group := reader.read(budget):
                [(segment, piece)] = group
                assert piece.start == position < piece.end
                position = piece.end
                self.payloads += piece.payloads
                self.missing += piece.missing
                self.damaged += len(piece.damaged)
                segment.commit(piece)
            assert position == len(data)
            assert not (Path(folder) / NAME).exists()
            reader.close()


def segment_of(payloads: list[bytes]) -> tuple[bytes, list[int]]:
    """Return the bytes of a segment, and the offset at which each frame ends."""
    frames = [encode_frame(ordinal, payload) for ordinal, payload in enumerate(payloads)]
    ends = [sum(map(len, frames[: index + 1])) for index in range(len(frames))]
    return b"".join(frames), ends


def damage(chance: random.Random, paths: list[Path]) -> None:
    """Damage the part that is not shipped yet.

    Flips one bit of the first segment with such a part, and cuts the last one short.
    """
    unshipped = [(path, start) for path in paths if (start := _shipped(path)) < path.stat().st_size]
    path, start = unshipped[0]
    data = bytearray(path.read_bytes())
    bit = chance.randrange(start * 8, len(data) * 8)
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    path, start = unshipped[-1]
    size = path.stat().st_size
    os.truncate(path, size - chance.randint(1, min(3000, size - start)))


def _shipped(path: Path) -> int:
    return (read_position(path.with_name(path.name + POSITION)) or Position()).offset
