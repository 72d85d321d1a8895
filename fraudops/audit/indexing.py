"""Indexes for partitions that are older than the index.

Each partition gets its part of the index by CREATE INDEX CONCURRENTLY, one after the other. Readers
and writers never wait for it, even if the partition is large.
"""

import time
from typing import Any

import asyncpg

from fraudops.audit.partitions import INDEX_LOCK

LOCK_SECONDS = 5
# PostgreSQL raises these when a statement took too long or could not get a lock.
_GAVE_UP = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
)
# Each index of `predictions`, with each attached partition that has no part of that index. A part
# that is not attached to the index counts as missing: an earlier attempt left it unfinished.
_MISSING = """
SELECT whole.relname AS index, day.relname AS day, pg_get_indexdef(whole.oid) AS definition
FROM pg_index known JOIN pg_class whole ON whole.oid = known.indexrelid
JOIN pg_inherits part ON part.inhparent = known.indrelid AND NOT part.inhdetachpending
JOIN pg_class day ON day.oid = part.inhrelid
WHERE known.indrelid = 'predictions'::regclass AND NOT EXISTS (
    SELECT FROM pg_inherits its JOIN pg_index own ON own.indexrelid = its.inhrelid
    WHERE its.inhparent = known.indexrelid AND own.indrelid = day.oid
)
ORDER BY day.relname DESC
"""


async def index_days(connection: Any, seconds: float) -> tuple[list[str], list[str]]:
    """Index partitions, the newest first; return the indexed ones and the remaining ones.

    A partition remains when `seconds` have passed, or when it is in use for too long. While another
    process builds indexes, this call does nothing. Raises the errors of asyncpg.
    """
    done, left, deadline = list[str](), list[str](), time.monotonic() + seconds
    # Do not wait for the lock: CREATE INDEX CONCURRENTLY of the other process waits until all older
    # statements have ended, and a statement that waits for this lock is one of them.
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
    """Build one part of an index; return False when it takes more than `seconds`, or is locked."""
    if seconds < 0.1:
        return False
    part = f"{row['day']}_{row['index'].removeprefix('predictions_')}"
    await connection.execute(
        f"SET lock_timeout = '{LOCK_SECONDS}s'; SET statement_timeout = '{int(seconds * 1000)}ms'"
    )
    try:
        # An earlier attempt that failed leaves an invalid index of this name.
        await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {part}")
        definition = row["definition"].partition(" USING ")[2]
        await connection.execute(
            f"CREATE INDEX CONCURRENTLY {part} ON {row['day']} USING {definition}"
        )
        await connection.execute(f"ALTER INDEX {row['index']} ATTACH PARTITION {part}")
    except _GAVE_UP:
        return False
    return True
