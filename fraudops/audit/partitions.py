"""The partitions of `predictions`, one for each UTC day."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

from fraudops.audit.connection import limited_transaction

# Keys of advisory locks. They are local to the database, and only have to differ from each other.
MIGRATION_LOCK = 7_205_101
PARTITION_LOCK = 7_205_102
RETENTION_LOCK = 7_205_104
INDEX_LOCK = 7_205_105
# The tables of all days, also those that are not attached to `predictions` (any more).
LIST = """
SELECT table_.relname AS name, part.inhrelid IS NOT NULL AS attached,
       coalesce(part.inhdetachpending, false) AS pending,
       pg_total_relation_size(table_.oid) AS bytes
FROM pg_class table_ LEFT JOIN pg_inherits part
  ON part.inhrelid = table_.oid AND part.inhparent = 'predictions'::regclass
WHERE table_.relkind = 'r' AND table_.relname ~ '^predictions_[0-9]{8}$'
  AND pg_table_is_visible(table_.oid)
ORDER BY table_.relname
"""
# NULL for a table that does not exist.
_IS_ATTACHED = """
SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = table_.oid)
FROM (SELECT to_regclass($1)::oid AS oid) table_ WHERE table_.oid IS NOT NULL"""


@dataclass(frozen=True)
class Partition:
    """The table of one day.

    State `pending`: its detaching was interrupted and must be finished. State `detached`: it is a
    table that does not belong to `predictions`.
    """

    day: date
    state: Literal["attached", "pending", "detached"]
    bytes: int

    @property
    def name(self) -> str:
        return partition_name(self.day)


def partition_name(day: date) -> str:
    return f"predictions_{day:%Y%m%d}"


async def partitions(connection: Any) -> list[Partition]:
    """Return the tables of all days, the oldest first."""
    tables = []
    for row in await connection.fetch(LIST):
        state: Literal["attached", "pending", "detached"] = (
            "pending" if row["pending"] else "attached" if row["attached"] else "detached"
        )
        day = datetime.strptime(row["name"][-8:], "%Y%m%d").date()  # noqa: DTZ007 (a day has no zone)
        tables.append(Partition(day, state, row["bytes"]))
    return tables


async def ensure_partition(
    connection: Any, day: date, lock_seconds: float = 20.0, idle_seconds: float = 60.0
) -> bool:
    """Create the partition of a day if it is missing, within the limits of its transaction.

    Returns False if the table of the day exists but is detached, because retention removes it.
    """
    name = partition_name(day)
    async with limited_transaction(connection, lock_seconds, idle_seconds):
        await connection.execute("SELECT pg_advisory_xact_lock($1)", PARTITION_LOCK)
        attached = await connection.fetchval(_IS_ATTACHED, name)
        if attached is None:
            start, end = (
                f"{moment.isoformat()} 00:00:00+00" for moment in (day, day + timedelta(days=1))
            )
            # CREATE TABLE … PARTITION OF would lock out readers and writers of all days. ATTACH of
            # a separate table takes a weaker lock, which they do not wait for.
            await connection.execute(f"CREATE TABLE {name} (LIKE predictions INCLUDING ALL)")
            await connection.execute(
                f"ALTER TABLE predictions ATTACH PARTITION {name} "
                f"FOR VALUES FROM ('{start}') TO ('{end}')"
            )
    return attached is not False
