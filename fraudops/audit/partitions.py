"""The partitions of `predictions`: one a UTC day, made by whoever needs it first."""

from datetime import date, timedelta
from typing import Any

# Advisory locks are per database; these numbers only have to differ from each other.
MIGRATION_LOCK = 7_205_101
PARTITION_LOCK = 7_205_102


def partition_name(day: date) -> str:
    return f"predictions_{day:%Y%m%d}"


async def ensure_partition(connection: Any, day: date) -> bool:
    """True once the day has its partition; False if a table of its name stands detached (retention took it out).

    Attaching a table that was made apart takes no lock that a reader or a writer of the other days would wait for.
    """
    name = partition_name(day)
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", PARTITION_LOCK)
        attached = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = table_.oid) FROM (SELECT to_regclass($1)::oid AS oid) table_ WHERE table_.oid IS NOT NULL",
            name,
        )
        if attached is None:
            start, end = (f"{moment.isoformat()} 00:00:00+00" for moment in (day, day + timedelta(days=1)))
            await connection.execute(f"CREATE TABLE {name} (LIKE predictions INCLUDING ALL)")
            await connection.execute(f"ALTER TABLE predictions ATTACH PARTITION {name} FOR VALUES FROM ('{start}') TO ('{end}')")
    return attached is not False
