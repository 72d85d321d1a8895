"""Ports of a promotion on one machine: a file for the record, and a file lock."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from fraudops.errors import StoreDownError
from fraudops.files import locked, try_lock, write_atomically
from fraudops.promotion.ports import LockBusyError, StaleRecordError, UnknownWriteError
from fraudops.promotion.serving_record import EMPTY, ServingRecord, decode, encode


class FileRecordStore:
    """`serving.json`, renamed into place under a lock. The token is the file's content."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[ServingRecord, bytes]:
        """Return the record and its token. Raises RecordUnreadableError, StoreDownError."""
        with _disk_errors("the serving record", self.path, "read"):
            data = self._stored()
        return (EMPTY, b"") if data is None else (decode(data), data)

    def compare_and_set(self, record: ServingRecord, token: bytes) -> bytes:
        """Write the record if the token is still valid, and return the new token.

        Raises StaleRecordError, UnknownWriteError, StoreDownError, NewerFormatError.
        """
        lock = self.path.with_suffix(".lock")
        with contextlib.ExitStack() as held:
            with _disk_errors("the lock of the serving record", lock, "opened"):
                held.enter_context(locked(lock))
            if self.read()[1] != token:
                raise StaleRecordError("another program has written the serving record")
            data = encode(record)
            self._write(data)
            return data

    def _write(self, data: bytes) -> None:
        with _disk_errors("the serving record", self.path, "written"):
            try:
                write_atomically(self.path, data, durable=True)
            except OSError as error:
                # After the rename readers see the new record, but a crash of the machine may
                # lose it.
                if self._may_hold(data):
                    raise UnknownWriteError(
                        "the serving record was written, but may not survive a crash of the "
                        f"machine ({self.path}: {error.strerror}): check the disk"
                    ) from error
                raise

    def _may_hold(self, data: bytes) -> bool:
        try:
            return self._stored() == data
        except OSError:
            return True

    def _stored(self) -> bytes | None:
        """Return the file's content, or None for a missing file. Raises OSError."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None


class LocalRecords:
    """FileRecordStore as the protocol's port."""

    def __init__(self, store: FileRecordStore) -> None:
        self.store = store

    async def read(self) -> tuple[ServingRecord, Any]:
        return self.store.read()

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        return self.store.compare_and_set(record, token)


class FileLock:
    """A lock that the kernel releases when its holder dies."""

    def __init__(self, path: Path, wait_seconds: float = 120.0) -> None:
        self.path, self.wait_seconds = path, wait_seconds
        self._holds = False

    @contextlib.asynccontextmanager
    async def hold(self, holder: str) -> AsyncIterator[None]:
        """Wait for the lock. Raises LockBusyError, StoreDownError."""
        with contextlib.ExitStack() as opened:
            with _disk_errors("the lock", self.path, "taken"):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # Without a buffer, closing the file writes nothing, so it cannot fail.
                file = opened.enter_context(self.path.open("ab+", buffering=0))
                await self._take(file)
                file.truncate(0)
                file.write(f"{holder}, process {os.getpid()}\n".encode())
            self._holds = True
            try:
                yield
            finally:
                self._holds = False

    async def _take(self, file: FileIO) -> None:
        end = time.monotonic() + self.wait_seconds
        while not try_lock(file.fileno()):
            if time.monotonic() > end:
                file.seek(0)
                raise LockBusyError(file.read().decode(errors="replace").strip() or "unknown")
            await asyncio.sleep(0.1)

    async def held(self) -> bool:
        return self._holds


@contextlib.contextmanager
def _disk_errors(what: str, path: Path, done: str) -> Iterator[None]:
    """Turn an OSError of the block into StoreDownError, which names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise StoreDownError(
            f"{what} cannot be {done} ({path}: {error.strerror}): check the free space of the "
            "disk and the permissions of the folder, then try again"
        ) from error


class SystemClock:
    def now(self) -> float:
        return time.monotonic()

    def timestamp(self) -> str:
        return datetime.now(UTC).isoformat(timespec="milliseconds")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
