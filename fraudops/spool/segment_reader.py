"""The reader of one segment: chunks of records, damaged stretches, and the position."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from fraudops.spool.frames import MAX_FRAME, frame_at, last_frame, next_frame
from fraudops.spool.position import POSITION, Position, read_position, write_position
from fraudops.spool.segments import Segment, adopt

# Bytes to read again when a smaller read holds no whole frame. This is enough to find the frame
# after a damaged stretch, unless the stretch is longer than the largest frame.
CHUNK = 4 * MAX_FRAME
# Bytes at a segment's end that are searched for its last record, before CHUNK bytes are.
TAIL = 64 << 10


@dataclass(frozen=True)
class SegmentChunk:
    """The part of a segment between two positions: payloads, or one damaged stretch.

    `missing` counts the records that the frames' numbers skip. `ordinal` is the number of the
    record after the chunk.
    """

    start: int
    end: int
    ordinal: int
    payloads: list[bytes] = field(default_factory=list)
    damaged: bytes = b""
    missing: int = 0


class SegmentReader:
    """Reads one segment.

    While the writer lives, reading stops at the first frame that is not valid. In an adopted
    segment, bytes that cannot be read are a damaged stretch. At its end they are a torn tail.
    """

    def __init__(self, folder: Path, segment: Segment) -> None:
        self.segment = segment
        self._path = folder / segment.name
        self._position_path = folder / (segment.name + POSITION)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        self._adopted = False
        self.position, self._ordinal, self._refused = (
            read_position(self._position_path) or Position()
        )
        self._recorded = True

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, budget: int) -> SegmentChunk | None:
        """Return the next chunk: at most `budget` bytes, or one larger record.

        Returns None when there is nothing to read yet.
        """
        # Adopt before reading: an adopted segment does not grow, so that a torn end is final.
        self._adopted = self._adopted or adopt(self._descriptor)
        for length in (min(budget, CHUNK), CHUNK):
            data = os.pread(self._descriptor, length, self.position)
            chunk = self._frames(data, budget)
            if chunk or len(data) < length:
                return chunk or (self._damage(data) if data else None)
        return self._damage(data)

    def has_more(self, chunk: SegmentChunk) -> bool:
        """Return whether to read on immediately after this chunk.

        True for an adopted segment too: the next segment of its series may hold records.
        """
        return self._adopted or self.size > chunk.end

    def finished(self) -> bool:
        """Return whether the segment has no writer any more and everything in it is committed."""
        if not self._recorded:
            self._record()
        # Adopt before looking at the size: until then the writer may append.
        self._adopted = self._adopted or adopt(self._descriptor)
        return self._adopted and self.position >= self.size

    def rows(self, size: int) -> int:
        """Return how many records before offset `size` are not committed yet.

        The count follows from the number of the last record, so its cost does not grow with it.
        """
        for length in (TAIL, CHUNK):
            start = max(self.position, size - length)
            if frame := last_frame(os.pread(self._descriptor, size - start, start)):
                return max(0, frame.ordinal + 1 - self._ordinal)
        return 0

    def commit(self, chunk: SegmentChunk, refused: int = 0) -> None:
        """Record that the chunk is safe elsewhere.

        `refused` counts its records, or records of its batch, that became dead letters. A full
        disk that refuses the position does not stop shipping, because only shipping makes room
        again. Each later call of `finished` tries again, since answers may wait for the position.
        """
        self._refused += refused
        self.position, self._ordinal = chunk.end, chunk.ordinal
        self._record()

    def remove(self) -> None:
        """Delete the finished segment and its position."""
        # The lock is held until the file is deleted, so that no other process adopts it.
        self._path.unlink(missing_ok=True)
        self._position_path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def _record(self) -> None:
        self._recorded = False
        with contextlib.suppress(OSError):
            write_position(
                self._position_path, Position(self.position, self._ordinal, self._refused)
            )
            self._recorded = True

    def _frames(self, data: bytes, budget: int = CHUNK) -> SegmentChunk | None:
        payloads, offset, ordinal, missing = [], 0, self._ordinal, 0
        while offset < budget and (frame := frame_at(data, offset)):
            payloads.append(frame.payload)
            missing += max(0, frame.ordinal - ordinal)
            offset, ordinal = frame.end, frame.ordinal + 1
        return (
            SegmentChunk(self.position, self.position + offset, ordinal, payloads, missing=missing)
            if payloads
            else None
        )

    def _damage(self, data: bytes) -> SegmentChunk | None:
        """Return the damaged stretch at the position, where no valid frame begins.

        Returns None while it may still be an unfinished write.
        """
        following = next_frame(data, 1)
        if not self._adopted:
            # The writer lives. Only a valid frame further on shows that this is damage.
            if following is None:
                return None
            # The writer may have filled the gap during the first read, so read again.
            data = os.pread(self._descriptor, CHUNK, self.position)
            if frame_at(data, 0):
                return self._frames(data)
            following = next_frame(data, 1)
        if following is None:
            # A frame that continues after this chunk may begin in its last MAX_FRAME bytes.
            following = len(data) if len(data) < CHUNK else CHUNK - MAX_FRAME
        return SegmentChunk(
            self.position, self.position + following, self._ordinal, damaged=data[:following]
        )
