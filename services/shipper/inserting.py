"""Inserts a group of rows, and finds the rows that PostgreSQL refuses.

A refused group is halved until the bad rows are found. First a few of its rows are tried one by
one, because a fault of the database refuses all of them. A copy of an accepted row then shows
whether only these rows are bad: see `circuit_breaker`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fraudops.audit.connection import sqlstate
from fraudops.audit.dead_letters import RejectedRecord
from services.shipper.circuit_breaker import (
    LONGEST_SERIES,
    SAMPLE,
    CircuitBreaker,
    CopyTrial,
    DatabaseRefusesError,
    RowFault,
    common_fault,
)
from services.shipper.row_writer import REFUSALS, RowWriter
from services.shipper.rows import Kind, Row, copy_of


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
    """Inserts groups of rows. It lives longer than a connection, and so does its breaker."""

    def __init__(self) -> None:
        self._breaker = CircuitBreaker()
        # The last accepted row of each kind.
        self._accepted: dict[Kind, Row] = {}

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
                await self._judge_fault(writer, rows[0], fault, LONGEST_SERIES)
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
        last = {row.kind: row for row in rows}
        self._accepted |= last
        self._breaker.accepted(table for table, _ in last)
        return None

    async def _judge(self, writer: RowWriter, rows: list[Row], table: str) -> None:
        """Try some rows of a refused group.

        Raises DatabaseRefusesError if the fault is one of the database.
        """
        own = [row for row in rows if row.table == table]
        sample = random.sample(own, min(SAMPLE, len(own)))
        if fault := common_fault(await self._try(writer, sample)):
            await self._judge_fault(writer, sample[0], fault, len(own))

    async def _judge_fault(self, writer: RowWriter, row: Row, fault: RowFault, rows: int) -> None:
        """Raise DatabaseRefusesError if a fault of `row` and others is one of the database."""
        if self._breaker.judge(fault, rows, await self._try_copy(writer, row)):
            raise DatabaseRefusesError(fault)

    async def _try_again(self, writer: RowWriter, rows: list[Row], fault: RowFault) -> None:
        """Close the breaker if rows are accepted again; raise DatabaseRefusesError otherwise."""
        own = [row for row in rows if row.table == fault.table]
        # One refused copy is cheaper for the database than eight refused rows. But the constraint
        # may refuse the copied row alone, so one row of the group is tried too.
        waiting = random.sample(own, min(1, len(own)))
        copied = await self._try_copy(writer, waiting[0]) if waiting else None
        if copied and copied.fault == fault and await self._try(writer, waiting) == [fault]:
            raise DatabaseRefusesError(fault)
        self._breaker.close()

    async def _try_copy(self, writer: RowWriter, row: Row) -> CopyTrial | None:
        """Try an accepted row under a new key, if possible one of the kind of `row`."""
        accepted = self._accepted.get(row.kind) or await self._other_row(writer, row)
        if accepted is None:
            return None
        copy = copy_of(accepted)
        if copy.day and not await writer.has_partition(copy.day):
            return None
        return CopyTrial(accepted.kind == row.kind, await writer.try_row(copy))

    async def _other_row(self, writer: RowWriter, row: Row) -> Row | None:
        """Return a row that the table has, or one of another kind that this process has written."""
        recent = await writer.recent(row.table)
        if recent and recent.kind == row.kind:
            return recent
        return next((each for each in self._accepted.values() if each.table == row.table), recent)

    async def _try(self, writer: RowWriter, rows: Sequence[Row]) -> list[RowFault | None]:
        """Try the rows one by one, until one of them is accepted."""
        faults = list[RowFault | None]()
        for row in rows:
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
