"""What PostgreSQL will never take, and what cannot be read: kept beside the spool with its reason,
a line of JSON each, for people to look at and replay.
"""

import base64
import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from fraudops.audit.records import decode, is_newer_kind
from fraudops.errors import DataError, StoreDownError
from fraudops.files import locked, sync_folder, try_locked
from fraudops.ids import uuid7
from fraudops.spool.frames import MAX_FRAME
from fraudops.spool.inspection import ScanResult, payloads
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import ASIDE, NEWER
from fraudops.spool.writer import SpoolWriter

REPLAYER = "replay"
BATCH = 256
LONGEST_LINE = 2 * MAX_FRAME
TAKEN = ".taken.jsonl"
# Of a file that nobody adds to any more: it never comes twice, so that the same file taken
# elsewhere again is known there.
_NAME = re.compile(r"[0-9]{8}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.jsonl")


class RejectedRecord(NamedTuple):
    """The payload of a record, or a damaged stretch of a segment, with the reason.

    It holds card data: it is for the file, never for a log.
    """

    payload: bytes
    reason: str


class DeadLetter(msgspec.Struct, frozen=True):
    """One line of the file; `payload` is base64."""

    at: datetime
    reason: str
    payload: str

    @property
    def data(self) -> bytes:
        return base64.b64decode(self.payload)

    @property
    def kind(self) -> str:
        """The reason without what may quote data, or name one segment."""
        parts = self.reason.split(": ")
        return ": ".join(parts[:2]) if parts[0] == "PostgreSQL refuses it" else parts[0]


@dataclass
class ReplayResult:
    """`records` were taken back to the spool, `kept` hold none and stay;

    `kinds` is why. `segments` were read, and `damaged` stretches found.
    """

    records: int = 0
    kept: int = 0
    segments: int = 0
    damaged: int = 0
    kinds: dict[str, int] = field(default_factory=dict)


class DeadLetters:
    """`spool/aside/YYYYMMDD.jsonl`, one object a line: at, reason, payload (base64).

    `spool/newer` has the same form. It holds records of kinds that only a newer release knows.
    """

    def __init__(self, spool: Path, folder: str = ASIDE) -> None:
        self._spool, self.folder = spool, spool / folder

    @classmethod
    def all(cls, spool: Path) -> "tuple[DeadLetters, DeadLetters]":
        """Both folders: a pod that leaves gives away the one and the other."""
        return cls(spool, ASIDE), cls(spool, NEWER)

    def put(self, rejected: Iterable[RejectedRecord]) -> None:
        """On the disk when it returns. The same line may come twice after a crash. Raises OSError."""
        now = datetime.now(UTC)
        self._write(
            [
                DeadLetter(now, entry.reason, base64.b64encode(entry.payload).decode())
                for entry in rejected
            ]
        )

    def entries(self) -> Iterator[DeadLetter]:
        """Everything that is set aside. Raises DataError for a file that another program spoiled."""
        for path in sorted(self.folder.glob("*.jsonl")):
            with contextlib.suppress(FileNotFoundError):
                yield from _read(path)

    def replay(self) -> ReplayResult:
        """Takes what can be read back to the spool, and forgets it here once it is on the disk
        there. Killed in between, the next replay begins again: what arrives twice changes
        nothing. Raises StoreDownError while another replay runs, SpoolFullError, DataError.
        """
        done = ReplayResult()
        with self._alone():
            self._take()
            for path in sorted(self.folder.glob(f"*{TAKEN}")):
                with _writer(self._spool) as writer:
                    kept = _bring_back(_read(path), writer, done)
                self._write(kept)
                path.unlink()
        return done

    def replay_segments(self, paths: Sequence[Path]) -> ReplayResult:
        """Takes the records of segments from elsewhere (another disk, a backup) into the spool; the
        files stay as they are. Raises as `replay` does.
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
        """The files, under names that never come twice; within the block no replay takes them.

        Raises StoreDownError while one runs.
        """
        with self._alone():
            self._take()
            for path in self.folder.glob(f"*{TAKEN}"):
                path.rename(path.with_name(path.name.removesuffix(TAKEN) + ".jsonl"))
            yield sorted(path for path in self.folder.glob("*.jsonl") if is_final_file(path.name))

    def take_over(self, paths: Iterable[Path]) -> None:
        """Renames what another folder of the same file system gives away into this one."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in paths:
            path.rename(self.folder / path.name)
        sync_folder(self.folder)

    def _write(self, entries: Sequence[DeadLetter]) -> None:
        if not entries:
            return
        with locked(self.folder / "put.lock"):
            descriptor = os.open(
                self.folder / f"{datetime.now(UTC):%Y%m%d}.jsonl",
                os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC,
                0o600,
            )
            with os.fdopen(descriptor, "wb") as file:
                _cut_torn_line(file.fileno())
                file.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
                file.flush()
                os.fsync(file.fileno())

    def _take(self) -> None:
        """From here on what the shipper sets aside goes to new files."""
        with locked(self.folder / "put.lock"):
            for path in self.folder.glob("*.jsonl"):
                if not path.name.endswith(TAKEN):
                    stem = path.stem if is_final_file(path.name) else f"{path.stem}-{uuid7()}"
                    path.rename(self.folder / f"{stem}{TAKEN}")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with try_locked(self.folder / "replay.lock") as held:
            if not held:
                raise StoreDownError("another replay is running: try again when it has ended")
            yield


def is_final_file(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def _cut_torn_line(descriptor: int) -> None:
    """A death within a write leaves half a line, of something that was not yet recorded as set
    aside and comes again.
    """
    size = os.fstat(descriptor).st_size
    start = max(0, size - LONGEST_LINE)
    tail = os.pread(descriptor, size - start, start)
    if not tail.endswith(b"\n"):
        os.ftruncate(descriptor, start + tail.rfind(b"\n") + 1)


def _read(path: Path) -> Iterator[DeadLetter]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield msgspec.json.decode(line, type=DeadLetter)
            except msgspec.MsgspecError:
                if line.endswith(b"\n"):
                    raise DataError(
                        f"{path}, line {number} is not what the shipper wrote: mend or remove the line"
                    ) from None


def _bring_back(
    entries: Iterable[DeadLetter], writer: SpoolWriter, done: ReplayResult
) -> list[DeadLetter]:
    """The entries that hold no record."""
    kept, batch = [], list[bytes]()
    for entry in entries:
        done.kinds[entry.kind] = done.kinds.get(entry.kind, 0) + 1
        if _is_record(entry.data):
            batch.append(entry.data)
            if len(batch) == BATCH:
                _append(writer, batch, done)
        else:
            kept.append(entry)
    _append(writer, batch, done)
    done.kept += len(kept)
    return kept


def _append(writer: SpoolWriter, batch: list[bytes], done: ReplayResult) -> None:
    if batch:
        writer.append_many(batch)
        done.records += len(batch)
        batch.clear()


def _is_record(payload: bytes) -> bool:
    try:
        decode(payload)
    except (msgspec.MsgspecError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _writer(spool: Path) -> Iterator[SpoolWriter]:
    """A writer whose appends are on the disk when they return."""
    writer = SpoolWriter(spool, REPLAYER, SpoolOptions(fsync="always"))
    try:
        yield writer
    finally:
        writer.close()
