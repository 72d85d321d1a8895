"""Inserts a group of rows, and finds the rows that PostgreSQL refuses.

A refused group is halved until the bad rows are found. First a few of its rows are tried one by
one, because a fault of the database refuses all of them: see `circuit_breaker`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fraudops.audit.connection import sqlstate
from fraudops.audit.dead_letters import RejectedRecord
from services.shipper.circuit_breaker import (
    SAMPLE,
    CircuitBreaker,
    DatabaseRefusesError,
    RowFault,
)
from services.shipper.row_writer import REFUSALS, RowWriter
from services.shipper.rows import Row, copy_of


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


class RowRefusal(NamedTuple):
    """Why PostgreSQL refuses rows, and its error, which may quote their values."""

    fault: RowFault
    error: Exception


class GroupInserter:
    """Inserts groups over one connection after the other. The breaker outlives a connection."""

    def __init__(self) -> None:
        self._breaker = CircuitBreaker()
        # The last accepted row of each table.
        self._accepted: dict[str, Row] = {}

    async def insert(self, writer: RowWriter, rows: list[Row], outcome: ShipOutcome) -> None:
        """Commit or reject each row.

        Raises DatabaseRefusesError if PostgreSQL refuses every row; nothing is rejected then.
        Raises the errors of PostgreSQL that no row causes. Then some rows may be committed.
        """
        if fault := self._breaker.open_for:
            await self._try_again(writer, rows, fault)
        await self._insert(writer, rows, outcome, set())

    async def _insert(
        self, writer: RowWriter, rows: list[Row], outcome: ShipOutcome, judged: set[str]
    ) -> None:
        """Insert the rows in one transaction; if a row is refused, halve the rows to find it.

        `judged` has the tables of the group whose first refusal was judged.
        """
        refusal = await self._commit(writer, rows, outcome)
        if refusal is None:
            return
        fault = refusal.fault
        if fault.table not in judged:
            judged.add(fault.table)
            await self._judge(writer, rows, fault.table)
        if len(rows) == 1:
            if self._breaker.refused(fault):
                raise DatabaseRefusesError(fault)
            outcome.rejected.append(_rejected(rows[0], refusal.error))
            return
        middle = len(rows) // 2
        await self._insert(writer, rows[:middle], outcome, judged)
        await self._insert(writer, rows[middle:], outcome, judged)

    async def _commit(
        self, writer: RowWriter, rows: list[Row], outcome: ShipOutcome
    ) -> RowRefusal | None:
        """Commit the rows, or return why a row is refused. Raises errors that no row causes."""
        try:
            outcome.new += await writer.write(rows)
        except REFUSALS as error:
            return RowRefusal(writer.fault(error), error)
        outcome.rows += len(rows)
        last = {row.table: row for row in rows}
        self._accepted |= last
        self._breaker.accepted(last)
        return None

    async def _judge(self, writer: RowWriter, rows: list[Row], table: str) -> None:
        """Try some rows of a refused group.

        Raises DatabaseRefusesError if the fault is one of the database.
        """
        own = [row for row in rows if row.table == table]
        tried = await self._try(writer, own, SAMPLE)
        copied = await self._try_copy(writer, table) if len(own) < SAMPLE else None
        if fault := self._breaker.judge(tried, len(own), copied):
            raise DatabaseRefusesError(fault)

    async def _try_again(self, writer: RowWriter, rows: list[Row], fault: RowFault) -> None:
        """Close the breaker if rows are accepted again; raise DatabaseRefusesError otherwise."""
        own = [row for row in rows if row.table == fault.table]
        # One refused copy is cheaper for the database than eight refused rows. But the constraint
        # may refuse the copied row alone, so one row of the group is tried too.
        copied = await self._try_copy(writer, fault.table)
        if copied == fault and await self._try(writer, own, 1) == [fault]:
            raise DatabaseRefusesError(fault)
        self._breaker.close()

    async def _try_copy(self, writer: RowWriter, table: str) -> RowFault | None:
        """Try a row that the table accepted earlier, under a new key."""
        row = self._accepted.get(table) or await writer.recent(table)
        if row is None:
            return None
        copy = copy_of(row)
        if copy.day and not await writer.has_partition(copy.day):
            return None
        return await writer.try_row(copy)

    async def _try(
        self, writer: RowWriter, rows: Sequence[Row], most: int
    ) -> list[RowFault | None]:
        """Try at most so many random rows one by one, until one of them is accepted."""
        faults = list[RowFault | None]()
        for row in random.sample(rows, min(most, len(rows))):
            faults.append(await writer.try_row(row))
            if faults[-1] is None:
                break
        return faults


def _rejected(row: Row, error: Exception) -> RejectedRecord:
    return RejectedRecord(
        row.payload,
        # The cause, because asyncpg's own message quotes values of other rows.
        f"PostgreSQL refuses it: {type(error).__name__} {sqlstate(error)}: "
        f"{error.__cause__ or error}",
    )
