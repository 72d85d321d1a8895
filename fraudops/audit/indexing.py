"""Days of predictions that are older than an index get their part of it one by one, CONCURRENTLY:
nobody who reads or writes waits, whatever a day holds.
"""

import time
from typing import Any

import asyncpg

from fraudops.audit.partitions import INDEX_LOCK

LOCK_SECONDS = 5
# PostgreSQL gives up a statement for the time that it takes, or for a lock.
_GAVE_UP = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
)
_MISSING = """
SELECT whole.relname AS index, day.relname AS day, pg_get_indexdef(whole.oid) AS definition
FROM pg_index known JOIN pg_class whole ON whole.oid = known.indexrelid
JOIN pg_inherits part ON part.inhparent = known.indrelid AND NOT part.inhdetachpending JOIN pg_class day ON day.oid = part.inhrelid
WHERE known.indrelid = 'predictions'::regclass AND NOT EXISTS (
    SELECT FROM pg_inherits its JOIN pg_index own ON own.indexrelid = its.inhrelid WHERE its.inhparent = known.indexrelid AND own.indrelid = day.oid
)
ORDER BY day.relname DESC
"""


async def index_days(connection: Any, seconds: float) -> tuple[list[str], list[str]]:
    """The days that got their part of an index, newest first, and those that are left for another
    time: `seconds` are over, or somebody has such a day in use.

    Does nothing while another does it. A part that an attempt left unfinished is begun anew.
    """
    done, left, deadline = list[str](), list[str](), time.monotonic() + seconds
    # A lock that is waited for would hold up the other's building, which waits for every older
    # statement.
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", INDEX_LOCK):
        return done, left
    try:
        for row in await connection.fetch(_MISSING):
            (
                done if await _index_day(connection, row, deadline - time.monotonic()) else left
            ).append(row["day"])
    finally:
        await connection.execute(
            f"RESET lock_timeout; RESET statement_timeout; SELECT pg_advisory_unlock({INDEX_LOCK})"
        )
    return done, left


async def _index_day(connection: Any, row: Any, seconds: float) -> bool:
    if seconds < 0.1:
        return False
    part = f"{row['day']}_{row['index'].removeprefix('predictions_')}"
    await connection.execute(
        f"SET lock_timeout = '{LOCK_SECONDS}s'; SET statement_timeout = '{int(seconds * 1000)}ms'"
    )
    try:
        await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {part}")
        await connection.execute(
            f"CREATE INDEX CONCURRENTLY {part} ON {row['day']} USING {row['definition'].partition(' USING ')[2]}"
        )
        await connection.execute(f"ALTER INDEX {row['index']} ATTACH PARTITION {part}")
    except _GAVE_UP:
        return False
    return True
