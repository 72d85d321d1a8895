"""The rows of `promotions` in PostgreSQL."""

import asyncio
import fcntl
import uuid
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert

from fraudops.audit.database import create_engine, translated
from fraudops.audit.tables import promotions
from fraudops.errors import SettingsError, StoreDownError
from fraudops.promotion.attempt import FINAL, UNCOMMITTED, Attempt

NAMESPACE = uuid.UUID("6ad3b5b0-54a5-4d2c-9d0c-0d8e0f7c2f11")
PATIENCE_SECONDS = 3.0
# What a later try of the request may change in its row.
CHANGED = (
    "finished_at",
    "from_version",
    "to_version",
    "to_digest",
    "epoch",
    "strategy",
    "act",
    "outcome",
    "reason",
    "waiver_reason",
    "behind",
    "signer",
)
# All tries of a request have the same. A row that a promoter left behind does not know them.
KEPT_IF_UNKNOWN = ("actor", "authenticated", "approver")


class DatabaseJournal:
    """Writes the rows to PostgreSQL, one for each request."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model = url, model

    async def write(self, attempt: Attempt) -> None:
        """Write the row of the attempt's request.

        It replaces the stored row of the request if `replaces` says so. Raises StoreDownError.
        """
        await self._write([attempt])

    async def write_old_file(self, path: Path) -> int:
        """Write the rows of a file of release 0.2.0, empty the file, and return their number.

        That release kept rows in a file while PostgreSQL was down, and appended them under the
        file's lock. An outcome from there replaces only what finished earlier, because a later
        try may have written its row since. Raises StoreDownError and keeps the rows.
        """
        if not path.exists():  # noqa: ASYNC240 (a small local file; no other task waits)
            return 0
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            lines = file.read().splitlines()
            rows = [msgspec.json.decode(line, type=_RowOf0_2_0) for line in lines if line]
            kept = [
                msgspec.structs.replace(row.attempt, finished_at=row.finished_at) for row in rows
            ]
            await self._write(kept, from_file=True)
            file.truncate(0)
        return len(rows)

    async def _write(self, attempts: Iterable[Attempt], *, from_file: bool = False) -> None:
        engine = create_engine(self.url, PATIENCE_SECONDS)
        try:
            # Every error is late after a commit, also one that a trigger or a policy raises.
            with translated(self.url, refusal="refuses the row of the act"):
                async with asyncio.timeout(PATIENCE_SECONDS), engine.begin() as connection:
                    for attempt in attempts:
                        values = self._values(attempt)
                        await connection.execute(_statement(attempt, values, from_file))
        except SettingsError as error:
            # A file that the URL names. It may be mended, and the act may have committed already.
            raise StoreDownError(str(error)) from error
        finally:
            await engine.dispose()

    def _values(self, attempt: Attempt) -> dict[str, Any]:
        ended = attempt.finished_at
        return {
            "id": uuid.uuid5(NAMESPACE, attempt.request),
            "started_at": datetime.fromisoformat(attempt.at),
            "finished_at": datetime.fromisoformat(ended) if ended else None,
            "model_name": self.model,
            "to_version": attempt.version,
            "to_digest": attempt.digest,
            "outcome": "done" if attempt.outcome == "unchanged" else attempt.outcome,
            "behind": list(attempt.behind),
            "authenticated": attempt.authenticated if attempt.actor else None,
        } | {
            name: getattr(attempt, name)
            for name in (
                "request",
                "from_version",
                "epoch",
                "strategy",
                "act",
                "reason",
                "waiver_reason",
                "requested_by",
                "actor",
                "approver",
                "signer",
            )
        }


class _RowOf0_2_0(msgspec.Struct, frozen=True):
    attempt: Attempt
    finished_at: str | None


def _statement(attempt: Attempt, values: dict[str, Any], from_file: bool) -> Any:
    statement = insert(promotions).values(**values)
    if attempt.outcome == "started":
        return statement.on_conflict_do_nothing(index_elements=["id"])
    return statement.on_conflict_do_update(
        index_elements=["id"],
        set_={name: statement.excluded[name] for name in CHANGED}
        | {
            name: func.coalesce(statement.excluded[name], promotions.c[name])
            for name in KEPT_IF_UNKNOWN
        },
        where=_replaced_by(attempt, statement, from_file),
    )


def _replaced_by(attempt: Attempt, statement: Any, from_file: bool) -> Any:
    """Return which rows of the request an outcome replaces: `replaces` in SQL."""
    stored, new = promotions.c, statement.excluded
    replaced = stored.outcome == "started"
    commits = attempt.outcome not in UNCOMMITTED
    if commits:
        replaced |= new.epoch > func.coalesce(stored.epoch, 0)
    if attempt.is_provisional:
        return replaced
    final = stored.outcome.in_(FINAL) & stored.finished_at.is_not(None)
    changeable = ~(final & stored.epoch.is_not(None))
    if not commits:
        changeable &= stored.outcome.in_(UNCOMMITTED) | stored.epoch.is_(None)
    if from_file:
        # A row that is started or provisional has no time.
        finished = stored.finished_at
        changeable &= finished.is_(None) | (finished <= new.finished_at)
    return replaced | changeable
