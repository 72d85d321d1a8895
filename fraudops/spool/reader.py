"""The reading side of the spool: every segment of every series, each series in its order.

Reading continues from recorded positions. A position is recorded after the rows are safe
elsewhere, so that a crash repeats records but loses none.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from fraudops.errors import StoreDownError
from fraudops.files import try_lock
from fraudops.spool.position import POSITION
from fraudops.spool.segment_reader import SegmentChunk, SegmentReader
from fraudops.spool.segments import Segment, list_segments

# Number of series that are read at the same time. It is far larger than the number of workers on
# one machine. If more writers than this have died, the newest series wait.
SIDE_BY_SIDE = 256
LOCK = "shipper.lock"


@dataclass(frozen=True)
class Backlog:
    """Bytes, segments and rows that are not safe elsewhere yet.

    `rows` is computed from the numbers of the frames, so it includes damaged records.
    """

    bytes: int
    segments: int
    rows: int


class SpoolReader:
    """All segments of a folder, for the one shipper that works on it."""

    def __init__(self, folder: Path) -> None:
        """Lock the folder. Raises StoreDownError immediately when another shipper holds it."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._readers: dict[Segment, SegmentReader] = {}
        self._rows: dict[Segment, tuple[int, int]] = {}
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not try_lock(self._lock):
            os.close(self._lock)
            raise StoreDownError(f"another shipper works on {folder}")
        self._remove_orphaned_positions()

    def read(self, budget: int) -> list[tuple[SegmentReader, SegmentChunk]]:
        """Return a chunk of each series that has one, and delete finished segments.

        Together the chunks have at most `budget` bytes, or one record each.
        """
        waiting = [reader for reader in self._oldest() if reader.size > reader.position]
        share = max(1, budget // max(1, len(waiting)))
        chunks = ((reader, reader.read(share)) for reader in waiting)
        return [(reader, chunk) for reader, chunk in chunks if chunk]

    def remove_finished(self) -> None:
        """Delete finished segments, as `read` does before it reads."""
        self._oldest()

    def backlog(self) -> Backlog:
        """Count the bytes and rows of all segments."""
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
        """Return the unshipped bytes and rows of one segment."""
        if reader := self._readers.get(segment):
            size = reader.size
            return max(0, size - reader.position), reader.rows(size)
        # Segments that are not open yet are counted again only after they have grown.
        size = (self.folder / segment.name).stat().st_size
        known, rows = self._rows.get(segment, (-1, 0))
        if known != size:
            reader = SegmentReader(self.folder, segment)
            rows = reader.rows(size)
            reader.close()
            self._rows[segment] = (size, rows)
        return size, rows

    def close_segments(self) -> None:
        """Close every segment, so that another part of this process may adopt it.

        The lock on the folder stays.
        """
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def close(self) -> None:
        self.close_segments()
        os.close(self._lock)

    def _oldest(self) -> list[SegmentReader]:
        """Return the oldest unfinished segment of each series, the oldest series first.

        Only these segments are open, so that a long backlog does not exhaust the descriptors.
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

    def _remove_orphaned_positions(self) -> None:
        """Delete positions without a segment.

        A crash after deleting a segment but before deleting its position file leaves one.
        """
        names = {segment.name for segment in list_segments(self.folder)}
        for path in self.folder.glob(f"*{POSITION}"):
            if path.name.removesuffix(POSITION) not in names:
                path.unlink()
