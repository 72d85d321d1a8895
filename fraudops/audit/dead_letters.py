"""Dead letters: records that PostgreSQL has refused, and bytes that cannot be read.

Each is a line of JSON in a folder of the spool, with the reason. An operator looks at them, removes
the reason and replays them.
"""

import base64
import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from fraudops.audit.dead_letter_files import (
    RECEIVED,
    DeadLetter,
    append_lines,
    is_final_file,
    read_lines,
    received_name,
)
from fraudops.audit.records import decode, is_newer_kind
from fraudops.errors import SpoolFullError, StoreDownError
from fraudops.files import locked, sync_folder, try_locked
from fraudops.ids import uuid7
from fraudops.spool.inspection import ScanResult, payloads
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import ASIDE, LETTERS, NEWER, bytes_of, spool_bytes
from fraudops.spool.writer import SpoolWriter

# The name of the spool writer that a replay uses.
REPLAYER = "replay"
BATCH = 256
# A file of this size gets no more lines, so that a replay holds little of it in memory, and another
# pod has room for it.
FILE_BYTES = 8 << 20
# The dead letters that a pod writes have at most this part of the spool's size limit: an eighth.
DEAD_LETTER_SHARE = 8
# The suffix of files that a replay works on. The shipper adds lines to other files only.
TAKEN = ".taken.jsonl"


class RejectedRecord(NamedTuple):
    """The payload of a record, or a damaged stretch of a segment, with the reason.

    It holds card data: write it to the dead letters, never to a log.
    """

    payload: bytes
    reason: str


@dataclass
class ReplayResult:
    """Counts of a replay.

    `records` were written to the spool. `kept` dead letters hold no record and stay. `kinds` counts
    dead letters by reason. `segments` were read, and `damaged` stretches were found in them.
    """

    records: int = 0
    kept: int = 0
    segments: int = 0
    damaged: int = 0
    kinds: dict[str, int] = field(default_factory=dict)


class DeadLetters:
    """The folder `spool/aside`, with a file YYYYMMDD.jsonl for today, and finished files.

    Each line is an object with at, reason and payload (base64). The folder `spool/newer` has the
    same form. It holds records of kinds that only a newer release knows.
    """

    def __init__(self, spool: Path, folder: str = ASIDE) -> None:
        self._spool, self.folder = spool, spool / folder

    @classmethod
    def all(cls, spool: Path) -> "tuple[DeadLetters, DeadLetters]":
        """Return both folders; a pod that leaves hands over both."""
        return cls(spool, ASIDE), cls(spool, NEWER)

    def put(self, rejected: Iterable[RejectedRecord], limit: int | None = None) -> None:
        """Write the records, and sync them before it returns.

        After a crash the same record may be written twice. Raises OSError. Raises SpoolFullError
        before it writes anything, if the letters of this pod would have more than `limit` bytes.
        """
        now = datetime.now(UTC)
        entries = [
            DeadLetter(now, entry.reason, base64.b64encode(entry.payload).decode())
            for entry in rejected
        ]
        if limit is not None and entries:
            self._check_room(sum(len(msgspec.json.encode(entry)) + 1 for entry in entries), limit)
        self._write(entries)

    def entries(self) -> Iterator[DeadLetter]:
        """Yield all dead letters. Raises DataError for a line that the shipper did not write."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with contextlib.suppress(FileNotFoundError):
                yield from read_lines(path)

    def holds_records(self, path: Path) -> bool:
        """Return whether a file has a line that `replay` can write to the spool.

        Raises DataError, OSError.
        """
        return any(_is_record(entry.data) for entry in read_lines(path))

    def replay(self, maximum: int = SpoolOptions.max_bytes) -> ReplayResult:
        """Write the records of dead letters to the spool, and delete those dead letters.

        The spool grows to at most `maximum` bytes. After a crash the next replay starts again. The
        table ignores records that it already has. Raises StoreDownError while another replay runs,
        SpoolFullError, DataError.
        """
        done = ReplayResult()
        with self._alone():
            self._take()
            for path in sorted(self.folder.glob(f"*{TAKEN}")):
                with _writer(self._spool, maximum) as writer:
                    left, full = _replay_entries(read_lines(path), writer, done)
                # Delete the file last: its records are synced in the spool, and the others in
                # another file. A full spool must not make the next replay repeat this file.
                self._write(left)
                path.unlink()
                if full:
                    raise full
        return done

    def replay_segments(self, paths: Sequence[Path]) -> ReplayResult:
        """Write the records of segment files, from a backup or another disk, to the spool.

        The files stay as they are. Raises the errors of `replay`, and OSError.
        """
        done = ReplayResult()
        with self._alone(), _writer(self._spool) as writer:
            for path in paths:
                seen, batch = ScanResult(), list[bytes]()
                for payload in payloads(path, seen=seen):
                    if not _is_record(payload) and not is_newer_kind(payload):
                        seen.damaged += 1
                        continue
                    batch.append(payload)
                    if len(batch) == BATCH:
                        _append(writer, batch, done)
                _append(writer, batch, done)
                done.segments += 1
                done.damaged += seen.damaged
        return done

    @contextlib.contextmanager
    def for_handover(self) -> Iterator[list[Path]]:
        """Yield the finished files, under names that are used only once.

        No replay takes them within the block. Raises StoreDownError while one runs.
        """
        with self._alone():
            self._take()
            for path in self.folder.glob(f"*{TAKEN}"):
                path.rename(path.with_name(path.name.removesuffix(TAKEN) + ".jsonl"))
            yield sorted(path for path in self.folder.glob("*.jsonl") if is_final_file(path.name))

    def take_over(self, paths: Iterable[Path]) -> None:
        """Move files from another folder of the same file system into this one, and sync it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in paths:
            path.rename(self.folder / received_name(path.name))
        sync_folder(self.folder)

    def bytes(self) -> int:
        """Return the bytes of all letters. Raises OSError."""
        return bytes_of(self.folder, LETTERS) if self.folder.is_dir() else 0

    def _check_room(self, needed: int, limit: int) -> None:
        used = 0
        with contextlib.suppress(FileNotFoundError):
            used = bytes_of(self.folder, LETTERS) - bytes_of(self.folder, RECEIVED)
        # An empty folder takes any group. Otherwise a group above the limit would wait for ever.
        if used > 0 and used + needed > limit:
            raise SpoolFullError(
                f"the dead letters are full ({used:,} of {limit:,} bytes): replay them with "
                f"`fraudops audit replay`, or save and remove the files of {self.folder.name}"
            )

    def _write(self, entries: Sequence[DeadLetter]) -> None:
        """Append the entries to the file of today, and sync it."""
        if not entries:
            return
        with locked(self.folder / "put.lock"):
            path = self.folder / f"{datetime.now(UTC):%Y%m%d}.jsonl"
            is_new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                size = append_lines(descriptor, entries)
            finally:
                os.close(descriptor)
            if size >= FILE_BYTES:
                path.rename(path.with_name(f"{path.stem}-{uuid7()}.jsonl"))
            if is_new or size >= FILE_BYTES:
                # The shipper deletes the segment of these records, so the name must be on disk.
                sync_folder(self.folder)
                sync_folder(self._spool)

    def _take(self) -> None:
        """Rename all files, so that the shipper writes new dead letters to new files."""
        with locked(self.folder / "put.lock"):
            for path in self.folder.glob("*.jsonl"):
                if not path.name.endswith(TAKEN):
                    stem = path.stem if is_final_file(path.name) else f"{path.stem}-{uuid7()}"
                    path.rename(self.folder / f"{stem}{TAKEN}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other replays out. Raises StoreDownError while one runs."""
        with try_locked(self.folder / "replay.lock") as held:
            if not held:
                raise StoreDownError("another replay is running: try again when it has ended")
            yield


def _replay_entries(
    entries: Iterable[DeadLetter], writer: SpoolWriter, done: ReplayResult
) -> tuple[list[DeadLetter], SpoolFullError | None]:
    """Write the records of the entries to the spool.

    Returns the entries that are not there: they hold no record, or the spool was full.
    """
    left, batch, remaining = list[DeadLetter](), list[DeadLetter](), iter(entries)
    try:
        for entry in remaining:
            done.kinds[entry.kind] = done.kinds.get(entry.kind, 0) + 1
            if not _is_record(entry.data):
                left.append(entry)
                done.kept += 1
                continue
            batch.append(entry)
            if len(batch) == BATCH:
                _append_entries(writer, batch, done)
        _append_entries(writer, batch, done)
    except SpoolFullError as full:
        return [*left, *batch, *remaining], full
    return left, None


def _append_entries(writer: SpoolWriter, batch: list[DeadLetter], done: ReplayResult) -> None:
    _append(writer, [entry.data for entry in batch], done)
    batch.clear()


def _append(writer: SpoolWriter, batch: list[bytes], done: ReplayResult) -> None:
    if batch:
        writer.append_many(batch)
        done.records += len(batch)
        batch.clear()


def _is_record(payload: bytes) -> bool:
    try:
        decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    return True


@contextlib.contextmanager
def _writer(spool: Path, maximum: int = SpoolOptions.max_bytes) -> Iterator[SpoolWriter]:
    """Open a writer that syncs every append before it returns."""
    options = SpoolOptions(fsync="always", max_bytes=maximum)
    # Only the segments count. A replay empties the folders, so their bytes must not stop it.
    writer = SpoolWriter(spool, REPLAYER, options, used_bytes=spool_bytes)
    try:
        yield writer
    finally:
        writer.close()
