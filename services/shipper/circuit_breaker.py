"""Circuit breaker of the shipper: a fault of all rows is a fault of the database.

A bad row becomes a dead letter. A constraint that every row violates must not turn every row into
one. While the breaker is open, PostgreSQL's refusals make no dead letters: the shipper waits, as in
an outage.

Rows that one client sends may all be bad, and must not stop the rows of others. So the shipper also
tries a copy of an accepted row of the same kind: if that passes, the rows are bad.
"""

from collections.abc import Iterable
from typing import NamedTuple

from fraudops.errors import StoreDownError

# The rows of a group that are tried one by one. If one of them passes, bad rows caused the refusal.
SAMPLE = 8
# Consecutive rows that are refused alone before their fault is judged. A group may be too small for
# a sample, or the sample may have found a row that is older than the fault.
LONGEST_SERIES = 100
UNIQUE_VIOLATION = "23505"


class RowFault(NamedTuple):
    """What PostgreSQL said about a refused row, without any of the row's values.

    `part` is the constraint or the column that PostgreSQL named. `sqlstate` is empty if asyncpg
    could not encode the row.
    """

    table: str
    sqlstate: str
    part: str | None = None

    @property
    def about_one_row(self) -> bool:
        """True if such a fault is always about the values of one row."""
        return self.sqlstate in ("", UNIQUE_VIOLATION)

    def __str__(self) -> str:
        part = f"{self.part} of " if self.part else ""
        return f"SQLSTATE {self.sqlstate}, {part}table {self.table}"


class CopyTrial(NamedTuple):
    """The result of a copy of an accepted row: its fault, or None if it passed.

    `alike` is true for a row of the same kind as the refused rows.
    """

    alike: bool
    fault: RowFault | None


class DatabaseRefusesError(StoreDownError):
    """PostgreSQL refuses every row that was tried, all with the same fault."""

    def __init__(self, fault: RowFault) -> None:
        super().__init__(
            f"PostgreSQL refuses every row: {fault}: correct it; everything is shipped then"
        )
        self.fault = fault


class CircuitBreaker:
    """Decides whether refused rows are bad, or the database is. It does no I/O.

    It is open while `open_for` is a fault. A series of refused rows with one fault ends with an
    accepted row of the table, with a row that has another fault, or with a copy that passes.
    """

    def __init__(self) -> None:
        self.open_for: RowFault | None = None
        self._series: dict[str, tuple[RowFault, int]] = {}

    def open(self, fault: RowFault) -> None:
        self.open_for = fault

    def close(self) -> None:
        """Allow rows again. A series goes on, so that the next refusal may open immediately."""
        self.open_for = None

    def accepted(self, tables: Iterable[str]) -> None:
        """Note that rows of these tables were committed."""
        for table in tables:
            self._series.pop(table, None)

    def refused(self, fault: RowFault) -> bool:
        """Note a row that was refused alone; return whether its series must be judged now."""
        if fault.about_one_row:
            return False
        known, count = self._series.get(fault.table, (fault, 0))
        count = count + 1 if known == fault else 1
        self._series[fault.table] = fault, count
        return count >= LONGEST_SERIES

    def judge(self, fault: RowFault, rows: int, copied: CopyTrial | None) -> bool:
        """Open unless the fault is one of single rows; return whether it is open now.

        All rows that were tried have the fault; `rows` is the size of their group or series.
        `copied` is None if no accepted row is known.
        """
        if fault.about_one_row:
            return False
        if copied and copied.alike and copied.fault is None:
            self._series.pop(fault.table, None)
            return False
        if rows >= SAMPLE or (copied and copied.fault == fault):
            self.open(fault)
        return self.open_for is not None


def common_fault(tried: Iterable[RowFault | None]) -> RowFault | None:
    """Return the fault that all tried rows have, or None."""
    faults = set(tried)
    return faults.pop() if len(faults) == 1 else None
