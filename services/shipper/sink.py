"""PostgreSQL as the shipper uses it: COPY, and where rows may be there already by way of a staging
table and INSERT … ON CONFLICT DO NOTHING. What came before changes nothing when it comes again.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg

from fraudops.audit.connection import TROUBLE, address, connect, sqlstate, why_away
from fraudops.audit.dead_letters import RejectedRecord
from fraudops.audit.partitions import ensure_partition, partition_name
from fraudops.errors import StoreDownError
from services.shipper.rows import COLUMNS, Row, to_rows

logger = logging.getLogger(__name__)
TRANSACTION_SECONDS = 60.0
GRACE_SECONDS = 0.5
FUTURE_DAYS = 366
# SQLSTATE classes: cardinality, data, integrity constraint, program limit exceeded.
ROW_FAULTS = ("21", "22", "23", "54")


def _insert_statement(table: str, key: str) -> str:
    columns = ", ".join(f'"{name}"' for name in COLUMNS[table])
    return f"INSERT INTO {table} ({columns}) SELECT {columns} FROM staging_{table} ON CONFLICT ({key}) DO NOTHING"  # noqa: S608 (names of ours only)


INSERT = {
    "predictions": _insert_statement("predictions", 'id, "timestamp"'),
    "labels": _insert_statement("labels", "id"),
}


@dataclass
class ShipOutcome:
    """Rows committed, how many of them were new, and what PostgreSQL will never take.

    `unknown` are records of kinds that only a newer release knows.
    """

    rows: int = 0
    new: int = 0
    rejected: list[RejectedRecord] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)


class Sink:
    """One connection, made when it is needed and thrown away after any trouble.

    Rows of days beyond `kept_days` make no partition: they are rejected.
    """

    def __init__(self, url: str, kept_days: int | None = None) -> None:
        self._url, self._kept_days = url, kept_days
        self._connection: Any = None
        self._days: dict[date, bool] = {}
        self._careful = True

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def open(self) -> None:
        """Raises StoreDownError, also when the tables are not there yet: the shipper migrates nothing."""
        if self.connected:
            return
        with self._translated():
            connection = self._connection = await connect(self._url, "fraudops-shipper")
            async with self._patience():
                # What a lost connection has inserted and not committed must not keep the same rows
                # waiting until TCP finds out.
                await connection.execute(
                    f"SET lock_timeout = '20s'; SET idle_in_transaction_session_timeout = '{TRANSACTION_SECONDS:g}s'"
                )
                for table in COLUMNS:
                    await connection.execute(
                        f"CREATE TEMP TABLE staging_{table} (LIKE {table} INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"
                    )
        self._days.clear()
        self._careful = True

    async def ship(self, payloads: list[bytes]) -> ShipOutcome:
        """All of them committed or rejected when it returns.

        Raises StoreDownError; then any part may be committed, and all should come again.
        """
        await self.open()
        rows, rejected, unknown = to_rows(payloads)
        outcome = ShipOutcome(rejected=rejected, unknown=unknown)
        with self._translated():
            reasons = {day: await self._why_not(day) for day in {row.day for row in rows} if day}
            if any(reasons.values()):
                outcome.rejected += [
                    RejectedRecord(row.payload, reason)
                    for row in rows
                    if row.day and (reason := reasons[row.day])
                ]
                rows = [row for row in rows if not (row.day and reasons[row.day])]
            await self._insert(rows, outcome)
        return outcome

    async def close(self) -> None:
        """Politely if that goes quickly."""
        if self.connected:
            with contextlib.suppress(*TROUBLE):
                await self._connection.close(timeout=2)

    def give_up(self) -> None:
        """Ends the connection under whatever still waits for it."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _why_not(self, day: date) -> str | None:
        """Why rows of that day have no place; None when they have one, which is made if need be."""
        today = datetime.now(UTC).date()
        if day > today + timedelta(days=FUTURE_DAYS):
            return "from the future: was the clock wrong?"
        if self._kept_days is not None and day < today - timedelta(days=self._kept_days):
            return f"older than the {self._kept_days} days that are retained"
        if day not in self._days:
            async with self._patience():
                self._days[day] = await ensure_partition(self._connection, day)
        return (
            None
            if self._days[day]
            else f"the partition {partition_name(day)} was taken out of the table: older than what is retained"
        )

    async def _insert(self, rows: list[Row], outcome: ShipOutcome) -> None:
        """In one transaction; halves, and halves of these, until what PostgreSQL refuses stands alone."""
        try:
            async with self._patience():
                outcome.new += await self._transaction(rows)
            outcome.rows += len(rows)
        except (asyncpg.PostgresError, ValueError, OverflowError) as error:
            if not _blames_a_row(error):
                raise
            if len(rows) == 1:
                outcome.rejected.append(
                    RejectedRecord(
                        rows[0].payload,
                        f"PostgreSQL refuses it: {type(error).__name__} {sqlstate(error)}: {error}",
                    )
                )
                return
            middle = len(rows) // 2
            await self._insert(rows[:middle], outcome)
            await self._insert(rows[middle:], outcome)

    async def _transaction(self, rows: list[Row]) -> int:
        """How many of the rows were new.

        Predictions go straight in by COPY, at half of the cost, unless some may be there
        already: on a new connection, until a group was all new, and whenever PostgreSQL finds
        one twice.
        """
        try:
            new = await self._copy(rows, straight=not self._careful)
        except asyncpg.UniqueViolationError:
            if self._careful:
                raise
            self._careful = True
            new = await self._copy(rows, straight=False)
        self._careful = new < len(rows)
        return new

    async def _copy(self, rows: list[Row], straight: bool) -> int:
        """How many were new. A COPY that stands alone is a transaction of its own."""
        by_table = {
            table: values
            for table in COLUMNS
            if (values := [row.values for row in rows if row.table == table])
        }
        alone = straight and list(by_table) == ["predictions"]
        new = 0
        async with contextlib.nullcontext() if alone else self._connection.transaction():
            for table, values in by_table.items():
                directly = straight and table == "predictions"
                await self._connection.copy_records_to_table(
                    table if directly else f"staging_{table}",
                    records=values,
                    columns=COLUMNS[table],
                )
                new += (
                    len(values)
                    if directly
                    else int((await self._connection.execute(INSERT[table])).split()[-1])
                )
        return new

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Whatever is not a row's fault ends the connection and becomes StoreDownError: nothing is
        set aside for it, and it is tried again.
        """
        try:
            yield
        except TROUBLE as error:
            self.give_up()
            reason = (
                why_away(error)
                or f"does not let us write (SQLSTATE {sqlstate(error)}): look into its log"
            )
            raise StoreDownError(f"PostgreSQL at {address(self._url)} {reason}") from error

    @asynccontextmanager
    async def _patience(self) -> AsyncIterator[None]:
        """Ends a connection that takes too long.

        A mere timeout would not: asyncpg waits for the answers to its cancel and its ROLLBACK,
        which a silent network never brings. Nor would the end alone, ours or one from outside: a
        COPY that waits for room in the socket does not hear of it.
        """
        connection, loop = self._connection, asyncio.get_running_loop()
        timer = loop.call_later(TRANSACTION_SECONDS, connection.terminate)
        try:
            async with asyncio.timeout(TRANSACTION_SECONDS + GRACE_SECONDS) as limit:

                def ended(_: object) -> None:
                    with contextlib.suppress(RuntimeError):
                        limit.reschedule(loop.time() + GRACE_SECONDS)

                connection.add_termination_listener(ended)
                yield
        finally:
            timer.cancel()
            connection.remove_termination_listener(ended)


def _blames_a_row(error: Exception) -> bool:
    """Values that do not fit, by PostgreSQL's word or by asyncpg's before it sent them.

    Not a day that retention took out since we looked: a check violation that names no constraint.
    """
    if isinstance(error, asyncpg.PostgresError):
        return sqlstate(error).startswith(ROW_FAULTS) and not (
            isinstance(error, asyncpg.CheckViolationError) and not error.constraint_name
        )
    return True
