"""The reading side of the spool: every segment of every series, each series in its order, from
positions recorded after the rows were safe elsewhere.
"""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from fraudops.errors import StoreDownError
from fraudops.files import try_lock
from fraudops.spool.frames import MAX_FRAME, frame_at, last_frame, next_frame
from fraudops.spool.position import POSITION, Position, read_position, write_position
from fraudops.spool.segments import Segment, adopt, list_segments

# A piece that holds no whole frame is read again this large: damage must be longer than any frame
# to hide the next one.
CHUNK = 4 * MAX_FRAME
# The last record is looked for in so much of a segment's end, and only then in more.
TAIL = 64 << 10
# So many series are read side by side: far more than one machine has workers; the dead beyond wait
# for the older dead.
SIDE_BY_SIDE = 256
LOCK = "shipper.lock"


@dataclass(frozen=True)
class SegmentChunk:
    """What lies between two positions of a segment: payloads, or one damaged stretch.

    `missing` counts records that must have stood there.
    """

    start: int
    end: int
    ordinal: int
    payloads: list[bytes] = field(default_factory=list)
    damaged: bytes = b""
    missing: int = 0


class SegmentReader:
    """One segment.

    While its writer lives it is read as far as it is valid; once adopted, what cannot be read is
    a damaged stretch, at its end a torn tail.
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
        """The next piece of at most `budget` bytes, or of one record;

        None when there is nothing yet.
        """
        self._adopted = self._adopted or adopt(self._descriptor)
        for length in (min(budget, CHUNK), CHUNK):
            data = os.pread(self._descriptor, length, self.position)
            piece = self._frames(data, budget)
            if piece or len(data) < length:
                return piece or (self._damage(data) if data else None)
        return self._damage(data)

    def has_more(self, piece: SegmentChunk) -> bool:
        """Whether to read on at once after this piece, of this segment or of the next of its series."""
        return self._adopted or self.size > piece.end

    def finished(self) -> bool:
        """Nobody writes to it any more, and everything in it was committed."""
        if not self._recorded:
            self._record()
        self._adopted = self._adopted or adopt(self._descriptor)
        return self._adopted and self.position >= self.size

    def rows(self, size: int) -> int:
        """Records up to `size` that are not committed: what the last one's number says, so that it
        takes the same time however many they are.
        """
        for length in (TAIL, CHUNK):
            start = max(self.position, size - length)
            if frame := last_frame(os.pread(self._descriptor, size - start, start)):
                return max(0, frame.ordinal + 1 - self._ordinal)
        return 0

    def commit(self, piece: SegmentChunk, refused: int = 0) -> None:
        """Records that the piece is safe elsewhere;

        `refused` of its records, or of its group's, were set aside. A full disk that does not
        take it stops nobody: only shipping makes room again. It is tried again with each look,
        since answers may wait for it.
        """
        self._refused += refused
        self.position, self._ordinal = piece.end, piece.ordinal
        self._record()

    def remove(self) -> None:
        """Deletes the finished segment.

        Its lock is held until it is gone, so that nobody else takes it up.
        """
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
        """At the position stands no valid frame: an unfinished write, or damage.

        Of a live segment only what a later valid frame proves is believed, and only after
        reading once more: the bytes between may have been written while we read.
        """
        following = next_frame(data, 1)
        if not self._adopted:
            if following is None:
                return None
            data = os.pread(self._descriptor, CHUNK, self.position)
            if frame_at(data, 0):
                return self._frames(data)
            following = next_frame(data, 1)
        if following is None:
            following = len(data) if len(data) < CHUNK else CHUNK - MAX_FRAME
        return SegmentChunk(
            self.position, self.position + following, self._ordinal, damaged=data[:following]
        )


@dataclass(frozen=True)
class Backlog:
    """What is not yet safe elsewhere;

    `rows` as the numbers of the frames have it, lost ones included.
    """

    bytes: int
    segments: int
    rows: int


class SpoolReader:
    """All segments of a folder, for the one shipper that works on it."""

    def __init__(self, folder: Path) -> None:
        """Waits for nobody: raises StoreDownError when another shipper holds the folder."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._readers: dict[Segment, SegmentReader] = {}
        self._rows: dict[Segment, tuple[int, int]] = {}
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not try_lock(self._lock):
            os.close(self._lock)
            raise StoreDownError(f"another shipper works on {folder}")
        self._forget_lost_positions()

    def read(self, budget: int) -> list[tuple[SegmentReader, SegmentChunk]]:
        """A piece of each series that has one, at most `budget` bytes in all or a record each.

        Finished segments are removed on the way.
        """
        waiting = [reader for reader in self._oldest() if reader.size > reader.position]
        share = max(1, budget // max(1, len(waiting)))
        pieces = ((reader, reader.read(share)) for reader in waiting)
        return [(reader, piece) for reader, piece in pieces if piece]

    def remove_finished(self) -> None:
        """What `read` does before it reads."""
        self._oldest()

    def backlog(self) -> Backlog:
        waiting = rows = 0
        segments = list_segments(self.folder)
        for segment in segments:
            with contextlib.suppress(FileNotFoundError):
                size, count = self._waiting(segment)
                waiting, rows = waiting + size, rows + count
        self._rows = {
            segment: known for segment, known in self._rows.items() if segment in segments
        }
        return Backlog(waiting, len(segments), rows)

    def _waiting(self, segment: Segment) -> tuple[int, int]:
        """Bytes and rows of one segment.

        Of those that are not open, which nobody reads yet, the rows are looked up again only
        when they have grown.
        """
        if reader := self._readers.get(segment):
            size = reader.size
            return max(0, size - reader.position), reader.rows(size)
        size = (self.folder / segment.name).stat().st_size
        known, rows = self._rows.get(segment, (-1, 0))
        if known != size:
            reader = SegmentReader(self.folder, segment)
            rows = reader.rows(size)
            reader.close()
            self._rows[segment] = (size, rows)
        return size, rows

    def let_go(self) -> None:
        """Closes every segment, so that another part of this process may adopt them; the folder
        stays ours.
        """
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def close(self) -> None:
        self.let_go()
        os.close(self._lock)

    def _oldest(self) -> list[SegmentReader]:
        """The oldest unfinished segment of each series, the oldest series first; only these are
        open, however long the backlog.
        """
        oldest: dict[str, SegmentReader] = {}
        for segment in list_segments(self.folder):
            if segment.series not in oldest and len(oldest) < SIDE_BY_SIDE:
                reader = self._readers.get(segment) or SegmentReader(self.folder, segment)
                self._readers[segment] = reader
                if reader.finished():
                    reader.remove()
                    del self._readers[segment]
                else:
                    oldest[segment.series] = reader
        return list(oldest.values())

    def _forget_lost_positions(self) -> None:
        """A death between the removals of a segment and of its position leaves the latter."""
        names = {segment.name for segment in list_segments(self.folder)}
        for path in self.folder.glob(f"*{POSITION}"):
            if path.name.removesuffix(POSITION) not in names:
                path.unlink()
