"""The transactions of a window that were refused, by field and reason.

The workers count them, and write the counts every minute (`fraudops.audit.records.RefusalCount`).
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from fraudops.audit.database import shown_url, translated

_READ = text("""
SELECT field, reason, sum(rows) AS rows FROM refusals
WHERE at >= :since AND at < :until AND model_name = :model_name
  AND (CAST(:model_version AS text) IS NULL OR model_version = :model_version)
GROUP BY field, reason ORDER BY rows DESC, field, reason""")


@dataclass(frozen=True)
class RefusedReason:
    """The number of transactions that were refused for their first fault."""

    field: str
    reason: str
    rows: int


@dataclass(frozen=True)
class RefusedTransactions:
    """All refused transactions of a window; `reasons` has the most frequent first."""

    reasons: tuple[RefusedReason, ...]

    @property
    def rows(self) -> int:
        return sum(reason.rows for reason in self.reasons)

    def share(self, answers: int) -> float | None:
        """Return their share of all transactions, with the number of those that were answered."""
        return refused_share(self.rows, answers)


def refused_share(refused: int, answers: int) -> float | None:
    """Return the share of refused transactions, or None if there was none at all."""
    return refused / (refused + answers) if refused + answers else None


async def refused_transactions(
    engine: AsyncEngine,
    since: datetime,
    until: datetime,
    model_name: str,
    model_version: str | None = None,
) -> RefusedTransactions:
    """Read the counts of [since, until), of all versions or of one. Raises StoreDownError.

    A count has the time at which it was written, up to a minute after its transactions.
    """
    parameters = {
        "since": since,
        "until": until,
        "model_name": model_name,
        "model_version": model_version,
    }
    with translated(shown_url(engine)):
        async with engine.connect() as connection:
            rows = await connection.execute(_READ, parameters)
            return RefusedTransactions(
                tuple(RefusedReason(row.field, row.reason, row.rows) for row in rows)
            )
