"""A lock for work that cannot run in one transaction."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fraudops.audit.connection import open_connection

# The transaction is idle for as long as the work takes, so no limit of the server may end it. The
# second setting exists since PostgreSQL 17; `set_config` of an unknown name would fail.
_WITHOUT_LIMITS = """
SELECT set_config(name, '0', true) FROM pg_settings
WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout', 'lock_timeout')
"""


class HeldLock:
    """An advisory lock, held by an open transaction of a connection of its own.

    A lock of the session would need the same connection of the server for every statement, which
    PgBouncer in transaction mode does not give. The idle transaction has no snapshot, so that
    CREATE INDEX CONCURRENTLY and the like do not wait for it.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def check(self) -> None:
        """Raise an error of asyncpg if the connection was lost, and the lock with it."""
        await self._connection.execute("SELECT 1")


@asynccontextmanager
async def advisory_lock(
    url: str, key: int, program: str, *, wait: bool = False, variable: str = "DATABASE_URL"
) -> AsyncIterator[HeldLock | None]:
    """Hold the lock for one block. Yield None if another process has it, unless `wait`.

    Raises the errors of `connect`.
    """
    async with open_connection(url, program, variable) as connection, connection.transaction():
        await connection.execute(_WITHOUT_LIMITS)
        if wait:
            await connection.execute(f"SELECT pg_advisory_xact_lock({key:d})")
        elif not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", key):
            yield None
            return
        held = HeldLock(connection)
        # `fetchval` leaves its portal open until the next statement, and a snapshot with it. CREATE
        # INDEX CONCURRENTLY would wait for that snapshot.
        await held.check()
        yield held
