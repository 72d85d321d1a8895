"""The `promotions` rows: written at once, or, while PostgreSQL is away, kept in a file (one
machine) or derived from the record (cluster) later.
"""

import asyncio
import fcntl
import os
import uuid
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy.dialects.postgresql import insert

from fraudops.audit.database import create_engine, translated
from fraudops.audit.tables import promotions
from fraudops.errors import StoreDownError
from fraudops.progress import Say
from fraudops.promotion.ports import Attempt
from fraudops.promotion.serving_record import ServingEntry, ServingRecord

NAMESPACE = uuid.UUID("6ad3b5b0-54a5-4d2c-9d0c-0d8e0f7c2f11")
PATIENCE_SECONDS = 3.0


class PendingAttempt(msgspec.Struct, frozen=True):
    """An attempt with the moment of its outcome, as one line of the pending file."""

    attempt: Attempt
    finished_at: str | None


class DatabaseJournal:
    """Writes the rows to PostgreSQL; `write` never raises.

    A row that cannot be written now is appended to the pending file, if there is one.
    """

    def __init__(self, url: str, model: str, say: Say, pending: Path | None = None) -> None:
        self.url, self.model, self.say, self.pending = url, model, say, pending

    async def write(self, attempt: Attempt) -> None:
        finished = None if attempt.outcome == "started" else datetime.now(UTC).isoformat()
        row = PendingAttempt(attempt, finished)
        try:
            await self._upsert([row])
        except StoreDownError:
            self._keep(row)
            self.say("PostgreSQL is away: the row in promotions follows when it is back")

    async def bring_after(self, record: ServingRecord) -> None:
        """A row for every version that the record says served, where there is none yet.

        Raises StoreDownError.
        """
        entries = [
            entry for entry in (*reversed(record.stack), record.current) if entry and not entry.undo
        ]
        if not entries:
            return
        await self._upsert(
            [PendingAttempt(_attempt_of(entry), entry.at) for entry in entries], only_missing=True
        )

    async def flush(self) -> int:
        """Writes the pending rows, oldest first, and returns their number.

        Raises StoreDownError and keeps them all.
        """
        if self.pending is None or not self.pending.exists():
            return 0
        with self.pending.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            rows = [
                msgspec.json.decode(line, type=PendingAttempt)
                for line in file.read().splitlines()
                if line
            ]
            if rows:
                await self._upsert(rows)
            file.truncate(0)
        return len(rows)

    def _keep(self, row: PendingAttempt) -> None:
        if self.pending is None:
            return
        with self.pending.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.write(msgspec.json.encode(row) + b"\n")
            file.flush()
            os.fsync(file.fileno())

    async def _upsert(self, rows: Iterable[PendingAttempt], only_missing: bool = False) -> None:
        engine = create_engine(self.url)
        try:
            with translated():
                async with asyncio.timeout(PATIENCE_SECONDS), engine.begin() as connection:
                    for row in rows:
                        await connection.execute(_statement(self._values(row), only_missing))
        except TimeoutError as error:
            raise StoreDownError(
                f"PostgreSQL did not answer within {PATIENCE_SECONDS:g} s"
            ) from error
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
        } | {
            name: fields[name]
            for name in ("from_version", "epoch", "strategy", "outcome", "reason", "requested_by")
        }


def _attempt_of(entry: ServingEntry) -> Attempt:
    return Attempt(
        entry.by,
        entry.requested_by,
        entry.strategy,
        entry.at,
        entry.version,
        entry.digest,
        epoch=entry.epoch,
        outcome="done",
    )


def _statement(values: dict[str, Any], only_missing: bool) -> Any:
    """One row a request: a later try's outcome replaces an earlier one, but `started` never
    replaces an outcome, and a late row replaces only `started`.
    """
    statement = insert(promotions).values(**values)
    changed = {
        name: statement.excluded[name]
        for name in ("finished_at", "to_version", "to_digest", "epoch", "outcome", "reason")
    }
    where = (
        promotions.c.outcome == "started"
        if only_missing
        else statement.excluded.outcome != "started"
    )
    return statement.on_conflict_do_update(index_elements=["id"], set_=changed, where=where)
