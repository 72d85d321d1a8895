"""Indexes for tables that are older than the index: the days of `predictions`, and `labels`.

Each is built by CREATE INDEX CONCURRENTLY, one after the other. Readers and writers never wait for
it, even if the table is large.
"""

import asyncio
import time
from typing import Any, NamedTuple

import asyncpg

from fraudops.audit.connection import limited_transaction, limits_of_role, open_connection
from fraudops.audit.locking import advisory_lock
from fraudops.audit.partitions import INDEX_LOCK

LOCK_SECONDS, POLL_SECONDS = 5, 0.5
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
# What CREATE INDEX CONCURRENTLY waits for, if it waits.
_WAITS = """
SELECT phase || ' ' || current_locker_pid FROM pg_stat_progress_create_index
WHERE relid = to_regclass($1) AND phase LIKE 'waiting%'
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
# Labels arrive in the order of time, so that a small BRIN index is enough to find a window.
LABELS_INDEX = "labels_received_at"
_LABELS_DEFINITION = "brin (received_at) WITH (pages_per_range = 32, autosummarize = on)"
# An attempt that failed leaves an invalid index of the name.
_IS_INDEXED = """
SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND indisvalid)"""


class IndexedDays(NamedTuple):
    """The partitions that were indexed and those that remain.

    `limit` names a limit of the role that ended the work, and the SQL against it.
    """

    done: list[str]
    left: list[str]
    limit: str | None = None


async def index_days(url: str, seconds: float, program: str = "fraudops") -> IndexedDays:
    """Index partitions, the newest first.

    A partition remains when `seconds` have passed, when it is in use for too long, or when a limit
    of the role ends the work. While another process builds indexes, this call does nothing. Raises
    the errors of asyncpg.
    """
    # A day may lack several indexes, and is named once.
    done, left, deadline = dict[str, None](), dict[str, None](), time.monotonic() + seconds
    limit: str | None = None
    # Do not wait for the lock: CREATE INDEX CONCURRENTLY of the other process waits until all older
    # statements have ended, and a statement that waits for this lock is one of them.
    async with advisory_lock(url, INDEX_LOCK, program) as held:
        if held is None:
            return IndexedDays([], [])
        async with (
            open_connection(url, program) as connection,
            open_connection(url, program) as watch,
        ):
            for row in await connection.fetch(_MISSING):
                try:
                    await _index_day(connection, watch, row, deadline)
                    done[row["day"]] = None
                except _GAVE_UP as error:
                    # The network's own timeout is a TimeoutError too.
                    if connection.is_closed() or watch.is_closed():
                        raise
                    if not isinstance(error, TimeoutError):
                        limit = await limits_of_role(connection)
                    left[row["day"]] = None
                await held.check()
    return IndexedDays([day for day in done if day not in left], list(left), limit)


async def index_labels(url: str, seconds: float, program: str = "fraudops") -> bool:
    """Index the labels by their arrival, and return whether the index is there.

    It is missing when `seconds` have passed, when the table is in use for too long, or while
    another process builds indexes. Reads of a window are then slower, never wrong. Raises the
    errors of asyncpg.
    """
    deadline = time.monotonic() + seconds
    async with open_connection(url, program) as connection:
        if await connection.fetchval(_IS_INDEXED, LABELS_INDEX):
            return True
        async with (
            advisory_lock(url, INDEX_LOCK, program) as held,
            open_connection(url, program) as watch,
        ):
            index = ("labels", LABELS_INDEX, _LABELS_DEFINITION)
            try:
                if held:
                    await _build(connection, watch, index, deadline)
            except _GAVE_UP:
                # The network's own timeout is a TimeoutError too.
                if connection.is_closed() or watch.is_closed():
                    raise
                return False
            return held is not None


async def _index_day(connection: Any, watch: Any, row: Any, deadline: float) -> None:
    """Build one part of an index. Raises the errors of `_build`."""
    part = f"{row['day']}_{row['index'].removeprefix('predictions_')}"
    definition = row["definition"].partition(" USING ")[2]
    await _build(connection, watch, (row["day"], part, definition), deadline)
    async with limited_transaction(connection, LOCK_SECONDS):
        await connection.execute(f"ALTER INDEX {row['index']} ATTACH PARTITION {part}")


async def _build(connection: Any, watch: Any, index: tuple[str, str, str], deadline: float) -> None:
    """Build an index: its table, its name, and its definition.

    Raises TimeoutError at the deadline or when it waits too long.

    CONCURRENTLY runs in no transaction. A limit of the server would be one of the session, which
    PgBouncer in transaction mode gives to others. So the limits are here.
    """
    table, name, definition = index
    if deadline - time.monotonic() < 0.1 or await _is_written(connection, table):
        raise TimeoutError
    # An earlier attempt that failed leaves an invalid index of this name.
    await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", timeout=LOCK_SECONDS)
    building = asyncio.create_task(
        connection.execute(f"CREATE INDEX CONCURRENTLY {name} ON {table} USING {definition}")
    )
    try:
        await _await_build(building, watch, table, deadline)
    finally:
        # The cancellation of the task sends a cancel to the server.
        building.cancel()
        await asyncio.wait([building])


async def _await_build(
    building: "asyncio.Task[Any]", watch: Any, day: str, deadline: float
) -> None:
    """Wait for the build. Raises TimeoutError when it waits LOCK_SECONDS for one transaction.

    A long reader of any table holds it up, and the other days with it.
    """
    since, waits = time.monotonic(), None
    while not (await asyncio.wait([building], timeout=POLL_SECONDS))[0]:
        now, found = time.monotonic(), await watch.fetchval(_WAITS, day)
        if found != waits:
            since, waits = now, found
        if now > deadline or (waits and now - since >= LOCK_SECONDS):
            raise TimeoutError
    await building


async def _is_written(connection: Any, day: str) -> bool:
    """Return whether a transaction that has written to the day stays open for LOCK_SECONDS.

    The index would wait for it, and the other days for the index.
    """
    deadline, writers = time.monotonic() + LOCK_SECONDS, None
    while writers is None or (writers and time.monotonic() < deadline):
        if writers:
            await asyncio.sleep(POLL_SECONDS)
        found = {row["writer"] for row in await connection.fetch(_WRITERS, day)}
        writers = found if writers is None else writers & found
    return bool(writers)
