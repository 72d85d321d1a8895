"""Indexes for partitions that are older than the index.

Each partition gets its part of the index by CREATE INDEX CONCURRENTLY, one after the other. Readers
and writers never wait for it, even if the partition is large.
"""

import asyncio
import time
from typing import Any

import asyncpg

from fraudops.audit.connection import limited_transaction, open_connection
from fraudops.audit.locking import advisory_lock
from fraudops.audit.partitions import INDEX_LOCK

LOCK_SECONDS, LOOK_SECONDS = 5, 0.5
# These are raised when a statement took too long or could not get a lock.
_GAVE_UP = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    TimeoutError,
)
# The transactions that CREATE INDEX CONCURRENTLY waits for first. `virtualtransaction` is never
# used again while a process lives.
_WRITERS = """
SELECT virtualtransaction AS writer FROM pg_locks
WHERE relation = to_regclass($1) AND mode = 'RowExclusiveLock' AND granted
"""
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


async def index_days(
    url: str, seconds: float, program: str = "fraudops"
) -> tuple[list[str], list[str]]:
    """Index partitions, the newest first; return the indexed ones and the remaining ones.

    A partition remains when `seconds` have passed, or when it is in use for too long. While another
    process builds indexes, this call does nothing. Raises the errors of asyncpg.
    """
    done, left, deadline = list[str](), list[str](), time.monotonic() + seconds
    # Do not wait for the lock: CREATE INDEX CONCURRENTLY of the other process waits until all older
    # statements have ended, and a statement that waits for this lock is one of them.
    async with advisory_lock(url, INDEX_LOCK, program) as held:
        if held is None:
            return done, left
        async with open_connection(url, program) as connection:
            for row in await connection.fetch(_MISSING):
                indexed = await _index_day(connection, row, deadline - time.monotonic())
                (done if indexed else left).append(row["day"])
                await held.check()
    return done, left


async def _index_day(connection: Any, row: Any, seconds: float) -> bool:
    """Build one part of an index; return False when it takes more than `seconds`, or is locked.

    CONCURRENTLY runs in no transaction. A limit of the server would be one of the session, which
    PgBouncer in transaction mode gives to others. So the limits are here.
    """
    if seconds < 0.1 or await _is_written(connection, row["day"]):
        return False
    part = f"{row['day']}_{row['index'].removeprefix('predictions_')}"
    definition = row["definition"].partition(" USING ")[2]
    try:
        # An earlier attempt that failed leaves an invalid index of this name.
        for statement in (
            f"DROP INDEX CONCURRENTLY IF EXISTS {part}",
            f"CREATE INDEX CONCURRENTLY {part} ON {row['day']} USING {definition}",
        ):
            await connection.execute(statement, timeout=seconds)
        async with limited_transaction(connection, LOCK_SECONDS):
            await connection.execute(f"ALTER INDEX {row['index']} ATTACH PARTITION {part}")
    except _GAVE_UP:
        return False
    return True


async def _is_written(connection: Any, day: str) -> bool:
    """Return whether a transaction that has written to the day stays open for LOCK_SECONDS.

    The index would wait for it, and the other days for the index.
    """
    deadline, writers = time.monotonic() + LOCK_SECONDS, None
    while writers is None or (writers and time.monotonic() < deadline):
        if writers:
            await asyncio.sleep(LOOK_SECONDS)
        found = {row["writer"] for row in await connection.fetch(_WRITERS, day)}
        writers = found if writers is None else writers & found
    return bool(writers)
