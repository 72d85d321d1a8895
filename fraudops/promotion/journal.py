"""The `promotions` rows of one machine: written at once, or kept in a file while PostgreSQL is away and written by the reconciler."""

import asyncio
import fcntl
import os
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.dialects.postgresql import insert

from fraudops.audit.database import create_engine, translated
from fraudops.audit.tables import promotions
from fraudops.errors import StoreDownError
from fraudops.promotion.ports import Attempt

NAMESPACE = uuid.UUID("6ad3b5b0-54a5-4d2c-9d0c-0d8e0f7c2f11")
PATIENCE_SECONDS = 5.0


class PendingAttempt(msgspec.Struct, frozen=True):
    """An attempt with the moment of its outcome, as one line of the pending file."""

    attempt: Attempt
    finished_at: str | None


class DatabaseJournal:
    """Never raises: what PostgreSQL does not take now goes to the pending file."""

    def __init__(self, url: str, pending: Path, model: str, say: Callable[[str], None]) -> None:
        self.url, self.pending, self.model, self.say = url, pending, model, say

    async def write(self, attempt: Attempt) -> None:
        finished = None if attempt.outcome == "started" else datetime.now(UTC).isoformat()
        row = PendingAttempt(attempt, finished)
        try:
            await self._upsert([row])
        except StoreDownError:
            self._keep(row)
            self.say("PostgreSQL is away: the row in promotions follows when it is back")

    async def flush(self) -> int:
        """Writes the pending rows, oldest first, and returns their number. Raises StoreDownError and keeps them all."""
        if not self.pending.exists():
            return 0
        with self.pending.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            rows = [msgspec.json.decode(line, type=PendingAttempt) for line in file.read().splitlines() if line]
            if rows:
                await self._upsert(rows)
            file.truncate(0)
        return len(rows)

    def _keep(self, row: PendingAttempt) -> None:
        with self.pending.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(msgspec.json.encode(row) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    async def _upsert(self, rows: Iterable[PendingAttempt]) -> None:
        engine = create_engine(self.url)
        try:
            with translated():
                async with asyncio.timeout(PATIENCE_SECONDS), engine.begin() as connection:
                    for row in rows:
                        await connection.execute(_statement(self._values(row)))
        except TimeoutError as error:
            raise StoreDownError(f"PostgreSQL did not answer within {PATIENCE_SECONDS:g} s") from error
        finally:
            await engine.dispose()

    def _values(self, row: PendingAttempt) -> dict[str, Any]:
        fields = asdict(row.attempt)
        return {
            "id": uuid.uuid5(NAMESPACE, row.attempt.request),
            "request": row.attempt.request,
            "started_at": datetime.fromisoformat(row.attempt.at),
            "finished_at": datetime.fromisoformat(row.finished_at) if row.finished_at else None,
            "model_name": self.model,
            "to_version": row.attempt.version,
            "to_digest": row.attempt.digest,
        } | {name: fields[name] for name in ("from_version", "epoch", "strategy", "outcome", "reason", "requested_by")}


def _statement(values: dict[str, Any]) -> Any:
    """One row a request: a later try's outcome replaces an earlier one, but `started` never replaces an outcome."""
    statement = insert(promotions).values(**values)
    changed = {name: statement.excluded[name] for name in ("finished_at", "to_version", "to_digest", "epoch", "outcome", "reason")}
    return statement.on_conflict_do_update(index_elements=["id"], set_=changed, where=statement.excluded.outcome != "started")
