"""Ports of a promotion on one machine: a file for the record, and a file lock."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fraudops.files import locked, try_lock, write_atomically
from fraudops.promotion.ports import LockBusyError, StaleRecordError
from fraudops.promotion.serving_record import EMPTY, ServingRecord, decode, encode


class FileRecordStore:
    """`serving.json`, renamed into place under a lock. The token is the file's content."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[ServingRecord, bytes]:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return EMPTY, b""
        return decode(data), data

    def compare_and_set(self, record: ServingRecord, token: bytes) -> bytes:
        with locked(self.path.with_suffix(".lock")):
            if self.read()[1] != token:
                raise StaleRecordError("the serving record has been written by somebody else")
            data = encode(record)
            write_atomically(self.path, data, durable=True)
            return data


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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        end = time.monotonic() + self.wait_seconds
        with self.path.open("a+") as file:
            while not try_lock(file.fileno()):
                if time.monotonic() > end:
                    file.seek(0)
                    raise LockBusyError(file.read().strip() or "unknown")
                await asyncio.sleep(0.1)
            file.truncate(0)
            file.write(f"{holder}, process {os.getpid()}\n")
            file.flush()
            self._holds = True
            try:
                yield
            finally:
                self._holds = False

    async def held(self) -> bool:
        return self._holds


class SystemClock:
    def now(self) -> float:
        return time.monotonic()

    def timestamp(self) -> str:
        return datetime.now(UTC).isoformat(timespec="milliseconds")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
