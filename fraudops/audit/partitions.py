"""The partitions of `predictions`: one a UTC day, made by whoever needs it first."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Literal

# Advisory locks are per database; these numbers only have to differ from each other.
MIGRATION_LOCK = 7_205_101
PARTITION_LOCK = 7_205_102
RETENTION_LOCK = 7_205_104
INDEX_LOCK = 7_205_105
LIST = """
SELECT table_.relname AS name, part.inhrelid IS NOT NULL AS attached, coalesce(part.inhdetachpending, false) AS pending,
       pg_total_relation_size(table_.oid) AS bytes
FROM pg_class table_ LEFT JOIN pg_inherits part ON part.inhrelid = table_.oid AND part.inhparent = 'predictions'::regclass
WHERE table_.relkind = 'r' AND table_.relname ~ '^predictions_[0-9]{8}$' AND pg_table_is_visible(table_.oid)
ORDER BY table_.relname
"""


@dataclass(frozen=True)
class Partition:
    """A day's table.

    `pending`: its detaching was begun and not ended; `detached`: it stands for itself.
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
    """Every day's table that there is, oldest first."""
    found = []
    for row in await connection.fetch(LIST):
        state: Literal["attached", "pending", "detached"] = (
            "pending" if row["pending"] else "attached" if row["attached"] else "detached"
        )
        day = datetime.strptime(row["name"][-8:], "%Y%m%d").date()  # noqa: DTZ007 (a day, no moment)
        found.append(Partition(day, state, row["bytes"]))
    return found


async def ensure_partition(connection: Any, day: date) -> bool:
    """True once the day has its partition;

    False if a table of its name stands detached (retention took it out).

    Attaching a table that was made apart takes no lock that a reader or a writer of the other
    days would wait for.
    """
    name = partition_name(day)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", PARTITION_LOCK)
        attached = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = table_.oid) FROM (SELECT to_regclass($1)::oid AS oid) table_ WHERE table_.oid IS NOT NULL",
            name,
        )
        if attached is None:
            start, end = (
                f"{moment.isoformat()} 00:00:00+00" for moment in (day, day + timedelta(days=1))
            )
            await connection.execute(f"CREATE TABLE {name} (LIKE predictions INCLUDING ALL)")
            await connection.execute(
                f"ALTER TABLE predictions ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}')"
            )
    return attached is not False
