"""What PostgreSQL will never take, and what cannot be read: kept beside the spool with its reason, a line of JSON each, for people to look at and replay."""

import base64
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec


class Rejected(NamedTuple):
    """The payload of a record, or a damaged stretch of a segment, with the reason. It holds card data: it is for the file, never for a log."""

    payload: bytes
    reason: str


class Aside:
    """`spool/aside/YYYYMMDD.jsonl`, one object a line: at, reason, payload (base64)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, rejected: Iterable[Rejected]) -> None:
        """On the disk when it returns. The same line may come twice after a crash. Raises OSError."""
        now = datetime.now(UTC)
        lines = [msgspec.json.encode({"at": now, "reason": entry.reason, "payload": base64.b64encode(entry.payload).decode()}) + b"\n" for entry in rejected]
        if not lines:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / f"{now:%Y%m%d}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
