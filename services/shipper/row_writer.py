"""Writes rows over one connection to PostgreSQL, and tries rows without keeping them.

New predictions are written by COPY. All other rows, and predictions that may exist already, are
inserted with ON CONFLICT DO NOTHING, so that writing a row twice changes nothing. Nothing here
outlives its transaction on the server. So PgBouncer in transaction mode works.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg

from fraudops.audit.connection import limited_transaction, sqlstate
from fraudops.audit.partitions import ensure_partition
from services.shipper.circuit_breaker import RowFault
from services.shipper.rows import COLUMNS, TYPES, Row

TRANSACTION_SECONDS = 60.0
# A lost connection may have left an open transaction, whose rows block the same rows here.
LOCK_SECONDS = 20.0
GRACE_SECONDS = 0.5
# SQLSTATE classes: cardinality, data, integrity constraint, program limit exceeded.
ROW_FAULTS = ("21", "22", "23", "54")
# What a refused row raises, in PostgreSQL or in asyncpg's encoder.
REFUSALS = (asyncpg.PostgresError, ValueError, OverflowError)
# What a COPY raises for a row that exists, and for a value that asyncpg cannot encode.
COPY_REFUSALS = (
    asyncpg.UniqueViolationError,
    ValueError,
    OverflowError,
    TypeError,
    AttributeError,
)


def _insert_statement(table: str, key: str) -> str:
    arrays = ", ".join(f"${place}::{TYPES[name]}[]" for place, name in enumerate(COLUMNS[table], 1))
    # All names are constants of this program.
    return (
        f"INSERT INTO {table} ({_columns(table)}) "  # noqa: S608
        f"SELECT * FROM unnest({arrays}) ON CONFLICT ({key}) DO NOTHING"
    )


def _columns(table: str) -> str:
    return ", ".join(f'"{name}"' for name in COLUMNS[table])


INSERT = {
    "predictions": _insert_statement("predictions", 'id, "timestamp"'),
    "labels": _insert_statement("labels", "id"),
    "refusals": _insert_statement("refusals", "at, id"),
}
# A parameter and not now(): only a constant keeps the plan from locking the partitions of all days.
RECENT = {
    table: f"SELECT {_columns(table)} FROM {table}{condition} LIMIT 1"  # noqa: S608
    for table, condition in (
        ("predictions", ' WHERE "timestamp" > $1 ORDER BY id DESC'),
        ("labels", ""),
        ("refusals", " ORDER BY at DESC"),
    )
}
# Fails while the tables do not exist, or the role may not read them. Without ONLY, the plan would
# lock each partition and each index, some thousands for each new connection of a shipper.
PROBE = "SELECT FROM ONLY predictions, ONLY labels, ONLY refusals LIMIT 0"


class _TriedError(Exception):
    """Ends a transaction whose rows must not stay."""


class RowWriter:
    """Writes rows over one connection; make a new writer for each connection.

    `table` is the one that the last statement wrote to.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._days: dict[date, bool] = {}
        # Rows may exist on a new connection: the old one may have committed without an answer.
        self._careful = True
        self.table = "predictions"

    async def probe(self) -> None:
        """Raise the error of PostgreSQL if the tables cannot be used."""
        async with self._time_limit():
            await self._connection.execute(PROBE)

    async def has_partition(self, day: date) -> bool:
        """Create the partition of a day if needed.

        Returns False if retention has taken the partition out of the table.
        """
        if day not in self._days:
            async with self._time_limit():
                self._days[day] = await ensure_partition(
                    self._connection, day, LOCK_SECONDS, TRANSACTION_SECONDS
                )
        return self._days[day]

    async def write(self, rows: list[Row]) -> int:
        """Commit the rows in one transaction; return how many did not exist before."""
        async with self._time_limit():
            # A COPY costs less than an INSERT, but fails if a row exists. So insert until a whole
            # group was new. A COPY encodes by the column's type, an INSERT by TYPES. So if an
            # operator has changed a type, the INSERT lets PostgreSQL say so.
            try:
                new = await self._transaction(rows, straight=not self._careful)
            except COPY_REFUSALS:
                if self._careful:
                    raise
                self._careful = True
                new = await self._transaction(rows, straight=False)
            self._careful = new < len(rows)
            return new

    async def try_row(self, row: Row) -> RowFault | None:
        """Insert one row in a transaction that is rolled back; return why it is refused, or None.

        Raises the errors of PostgreSQL that no row causes.
        """
        self.table = row.table
        try:
            async with self._time_limit(), self._limited():
                await self._connection.execute(INSERT[row.table], *zip(row.values, strict=True))
                # A deferred constraint would be checked at a commit, which does not follow.
                await self._connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
                raise _TriedError
        except _TriedError:
            return None
        except REFUSALS as error:
            return self.fault(error)

    async def recent(self, table: str) -> Row | None:
        """Return a row of the table, or None if it has none.

        It is the newest prediction of the last day, the newest count, or any label.
        """
        since = [datetime.now(UTC) - timedelta(days=1)] if table == "predictions" else []
        async with self._time_limit(), self._limited():
            record = await self._connection.fetchrow(RECENT[table], *since)
        return Row(table, tuple(record), None, b"") if record else None

    def fault(self, error: Exception) -> RowFault:
        """Return the fault of a refused row. Raises the error again if no row causes it."""
        if not isinstance(error, asyncpg.PostgresError) or error.severity is None:
            # asyncpg's encoder: its errors have no field of the server.
            return RowFault(self.table, "")
        # A check violation without a constraint's name means that retention has detached the
        # day's partition since `has_partition` ran. The row itself is valid.
        if not sqlstate(error).startswith(ROW_FAULTS) or (
            isinstance(error, asyncpg.CheckViolationError) and not error.constraint_name
        ):
            raise error
        part = (error.constraint_name and f"constraint {error.constraint_name}") or (
            error.column_name and f"column {error.column_name}"
        )
        return RowFault(self.table, sqlstate(error), part or None)

    async def _transaction(self, rows: list[Row], straight: bool) -> int:
        """Copy or insert the rows; return how many were new."""
        by_table = {
            table: values
            for table in COLUMNS
            if (values := [row.values for row in rows if row.table == table])
        }
        if straight and list(by_table) == ["predictions"]:
            # A single COPY is already atomic. An explicit transaction would add two round trips,
            # and a COPY that waits for a row of a lost connection is ended by the time limit.
            return await self._copy(by_table["predictions"])
        new = 0
        async with self._limited():
            for table, values in by_table.items():
                if straight and table == "predictions":
                    new += await self._copy(values)
                    continue
                self.table = table
                # One array for each column. A staging table would belong to one connection of
                # the server, and PgBouncer changes it between transactions.
                done = await self._connection.execute(INSERT[table], *zip(*values, strict=True))
                new += int(done.split()[-1])
        return new

    async def _copy(self, values: list[tuple[Any, ...]]) -> int:
        connection, self.table = self._connection, "predictions"
        try:
            await connection.copy_records_to_table(
                "predictions", records=values, columns=COLUMNS["predictions"]
            )
        except AttributeError as error:
            # asyncpg 0.32 tells the server that a COPY failed, also on a connection that is gone.
            if not connection.is_closed():
                raise
            raise asyncpg.ConnectionDoesNotExistError("the connection ended in a COPY") from error
        return len(values)

    def _limited(self) -> Any:
        return limited_transaction(self._connection, LOCK_SECONDS, TRANSACTION_SECONDS)

    @asynccontextmanager
    async def _time_limit(self) -> AsyncIterator[None]:
        """Terminate a connection that stalls.

        A timeout alone is not enough: asyncpg then waits for the server to acknowledge the cancel
        and the ROLLBACK. Terminating alone is not enough either: a COPY blocked on a full socket
        buffer does not notice.
        """
        connection, loop = self._connection, asyncio.get_running_loop()
        timer = loop.call_later(TRANSACTION_SECONDS, connection.terminate)
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS + GRACE_SECONDS) as limit:

                def ended(_: object) -> None:
                    # RuntimeError: the block has ended already, so there is nothing to cut short.
                    with contextlib.suppress(RuntimeError):
                        limit.reschedule(loop.time() + GRACE_SECONDS)

                connection.add_termination_listener(ended)
                yield
        finally:
            timer.cancel()
            connection.remove_termination_listener(ended)
