"""A lock for work that cannot run in one transaction."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fraudops.audit.connection import TROUBLE, open_connection

# A firewall or load balancer may drop a silent connection after four minutes, and says nothing.
CHECK_SECONDS, ANSWER_SECONDS = 30.0, 10.0
# The transaction is idle for as long as the work takes, so no limit of the server may end it. The
# keepalives end it 90 s after its client has disappeared: with the system's default of two hours,
# each later run would find the lock taken. `transaction_timeout` exists since PostgreSQL 17, and
# `set_config` of an unknown name would fail.
_SETTINGS = """
SELECT set_config(name, wanted.value, true) FROM pg_settings JOIN (VALUES
    ('idle_in_transaction_session_timeout', '0'), ('transaction_timeout', '0'),
    ('lock_timeout', '0'), ('statement_timeout', '0'), ('tcp_keepalives_idle', '60'),
    ('tcp_keepalives_interval', '10'), ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '90000')
) AS wanted (name, value) USING (name)
"""


class HeldLock:
    """An advisory lock, held by an open transaction of a connection of its own.

    A lock of the session would need the same connection of the server for every statement, which
    PgBouncer in transaction mode does not give. The idle transaction has no snapshot, so that
    CREATE INDEX CONCURRENTLY and the like do not wait for it.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._turn = asyncio.Lock()

    async def check(self) -> None:
        """Raise an error of asyncpg if the connection was lost, and the lock with it."""
        connection, loop = self._connection, asyncio.get_running_loop()
        async with self._turn:
            # A timeout of asyncpg would open another connection, for a cancel that the end of the
            # transaction then waits for. A server that has fallen silent answers neither.
            timer = loop.call_later(ANSWER_SECONDS, connection.terminate)
            try:
                # SHOW takes no snapshot. A CREATE INDEX CONCURRENTLY that sees one waits until the
                # whole transaction has ended.
                await connection.execute("SHOW lock_timeout")
            finally:
                timer.cancel()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Check the lock every CHECK_SECONDS. A lost lock ends the block with TimeoutError."""
        async with asyncio.timeout(None) as limit:
            watching = asyncio.create_task(self._watch(limit))
            try:
                yield
            finally:
                # Not within a check: the end of the transaction needs the connection.
                async with self._turn:
                    watching.cancel()

    async def _watch(self, limit: asyncio.Timeout) -> None:
        try:
            while True:
                await asyncio.sleep(CHECK_SECONDS)
                await self.check()
        except TROUBLE:
            limit.reschedule(asyncio.get_running_loop().time())


@asynccontextmanager
async def advisory_lock(
    url: str, key: int, program: str, *, wait: bool = False, variable: str = "DATABASE_URL"
) -> AsyncIterator[HeldLock | None]:
    """Hold the lock for one block. Yield None if another process has it, unless `wait`.

    Raises the errors of `connect`. A lost lock ends the block with one of the errors in TROUBLE.
    """
    async with (
        open_connection(url, program, variable) as connection,
        # In a stricter level the transaction would keep a snapshot.
        connection.transaction(isolation="read_committed"),
    ):
        await connection.execute(_SETTINGS)
        if wait:
            await connection.execute(f"SELECT pg_advisory_xact_lock({key:d})")
        elif not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", key):
            yield None
            return
        held = HeldLock(connection)
        # `fetchval` leaves its portal open until the next statement, and a snapshot with it. CREATE
        # INDEX CONCURRENTLY would wait for that snapshot.
        await held.check()
        async with held.watched():
            yield held
