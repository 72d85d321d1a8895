"""The shipper's connection to PostgreSQL.

Rows are written by COPY. Rows that may exist already are inserted with ON CONFLICT DO NOTHING, so
that writing a row twice changes nothing. Nothing here outlives its transaction on the server, so
that PgBouncer in transaction mode may stand in between.
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

from fraudops.audit.connection import (
    TROUBLE,
    connect,
    limited_transaction,
    sqlstate,
    why_away,
)
from fraudops.audit.dead_letters import RejectedRecord
from fraudops.audit.partitions import ensure_partition, partition_name
from fraudops.database_url import address
from fraudops.errors import SettingsError, StoreDownError
from services.shipper.rows import COLUMNS, TYPES, Row, to_rows

logger = logging.getLogger(__name__)
TRANSACTION_SECONDS = 60.0
# A lost connection may have left an open transaction, whose rows block the same rows here.
LOCK_SECONDS = 20.0
GRACE_SECONDS = 0.5
FUTURE_DAYS = 366
# SQLSTATE classes: cardinality, data, integrity constraint, program limit exceeded.
ROW_FAULTS = ("21", "22", "23", "54")


def _insert_statement(table: str, key: str) -> str:
    columns = ", ".join(f'"{name}"' for name in COLUMNS[table])
    arrays = ", ".join(f"${place}::{TYPES[name]}[]" for place, name in enumerate(COLUMNS[table], 1))
    # All names are constants of this program.
    return (
        f"INSERT INTO {table} ({columns}) "  # noqa: S608
        f"SELECT * FROM unnest({arrays}) ON CONFLICT ({key}) DO NOTHING"
    )


INSERT = {
    "predictions": _insert_statement("predictions", 'id, "timestamp"'),
    "labels": _insert_statement("labels", "id"),
    "refusals": _insert_statement("refusals", "at, id"),
}
# Fails while the tables do not exist, or the role may not read them. Without ONLY, the plan would
# lock each partition and each index, some thousands for each new connection of a shipper.
PROBE = "SELECT FROM ONLY predictions, ONLY labels, ONLY refusals LIMIT 0"


@dataclass
class ShipOutcome:
    """Counts of committed rows (`rows`) and of those that did not exist before (`new`).

    PostgreSQL will never accept the `rejected` records. `unknown` are records of kinds that only
    a newer release knows.
    """

    rows: int = 0
    new: int = 0
    rejected: list[RejectedRecord] = field(default_factory=list)
    unknown: list[bytes] = field(default_factory=list)


class Sink:
    """One connection, opened when needed and dropped after any error.

    Rows that are older than `kept_days` days are rejected. With None all days are kept.
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
        """Open the connection if there is none.

        Raises StoreDownError, also if the tables do not exist yet: the shipper never migrates.
        """
        if self.connected:
            return
        with self._translated():
            connection = self._connection = await connect(self._url, "fraudops-shipper")
            async with self._time_limit():
                await connection.execute(PROBE)
        self._days.clear()
        self._careful = True

    async def ship(self, payloads: list[bytes]) -> ShipOutcome:
        """Commit or reject every payload.

        Raises StoreDownError. Then some rows may be committed; ship the whole group again.
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
        """Close the connection; terminate it if the server does not answer in time."""
        if self.connected:
            with contextlib.suppress(*TROUBLE):
                await self._connection.close(timeout=2)

    def give_up(self) -> None:
        """Terminate the connection; calls that wait for it fail."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def _why_not(self, day: date) -> str | None:
        """Return why rows of that day are rejected, or None; create the partition if needed."""
        today = datetime.now(UTC).date()
        if day > today + timedelta(days=FUTURE_DAYS):
            return "from the future: was the clock wrong?"
        if self._kept_days is not None and day < today - timedelta(days=self._kept_days):
            return f"older than the {self._kept_days} days that are retained"
        if day not in self._days:
            async with self._time_limit():
                self._days[day] = await ensure_partition(
                    self._connection, day, LOCK_SECONDS, TRANSACTION_SECONDS
                )
        if self._days[day]:
            return None
        return (
            f"the partition {partition_name(day)} was taken out of the table: "
            "older than what is retained"
        )

    async def _insert(self, rows: list[Row], outcome: ShipOutcome) -> None:
        """Insert the rows in one transaction; if a row is refused, halve the rows to find it."""
        try:
            async with self._time_limit():
                outcome.new += await self._transaction(rows)
            outcome.rows += len(rows)
        except (asyncpg.PostgresError, ValueError, OverflowError) as error:
            if not _blames_a_row(error):
                raise
            if len(rows) == 1:
                outcome.rejected.append(
                    RejectedRecord(
                        rows[0].payload,
                        # The cause, because asyncpg's own message quotes values of other rows.
                        f"PostgreSQL refuses it: {type(error).__name__} {sqlstate(error)}: "
                        f"{error.__cause__ or error}",
                    )
                )
                return
            middle = len(rows) // 2
            await self._insert(rows[:middle], outcome)
            await self._insert(rows[middle:], outcome)

    async def _transaction(self, rows: list[Row]) -> int:
        """Insert the rows in one transaction; return how many did not exist before."""
        # A COPY costs less than an INSERT, but fails if a row exists. Rows may exist on a new
        # connection, because the old one may have committed without an answer. So insert until a
        # whole group was new.
        try:
            new = await self._write(rows, straight=not self._careful)
        except asyncpg.UniqueViolationError:
            if self._careful:
                raise
            self._careful = True
            new = await self._write(rows, straight=False)
        self._careful = new < len(rows)
        return new

    async def _write(self, rows: list[Row], straight: bool) -> int:
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
        async with limited_transaction(self._connection, LOCK_SECONDS, TRANSACTION_SECONDS):
            for table, values in by_table.items():
                if straight and table == "predictions":
                    new += await self._copy(values)
                else:
                    # One array for each column. A staging table would belong to one connection of
                    # the server, and PgBouncer changes it between transactions.
                    done = await self._connection.execute(INSERT[table], *zip(*values, strict=True))
                    new += int(done.split()[-1])
        return new

    async def _copy(self, values: list[tuple[Any, ...]]) -> int:
        connection = self._connection
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

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Drop the connection and raise StoreDownError for each error that no row causes.

        Such an error rejects no record: the shipper tries again.
        """
        try:
            yield
        except SettingsError as error:
            # A file that the URL names. It may be mended, so nothing that waits may be lost.
            raise StoreDownError(str(error)) from error
        except TROUBLE as error:
            self.give_up()
            reason = (
                why_away(error)
                or f"refuses to write (SQLSTATE {sqlstate(error)}): look into its log"
            )
            raise StoreDownError(f"PostgreSQL at {address(self._url)} {reason}") from error

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


def _blames_a_row(error: Exception) -> bool:
    """Return True if a row's values cause the error, in PostgreSQL or in asyncpg's encoder."""
    if isinstance(error, asyncpg.PostgresError):
        # A check violation without a constraint's name means that retention has detached the
        # day's partition since `_why_not` ran. The row itself is valid.
        return sqlstate(error).startswith(ROW_FAULTS) and not (
            isinstance(error, asyncpg.CheckViolationError) and not error.constraint_name
        )
    return True
