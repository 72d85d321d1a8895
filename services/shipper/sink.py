"""The shipper's connection to PostgreSQL, and the days whose rows it stores."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

from fraudops.audit.connection import TROUBLE, connect, sqlstate, why_away
from fraudops.audit.dead_letters import RejectedRecord
from fraudops.audit.partitions import partition_name
from fraudops.database_url import address
from fraudops.errors import SettingsError, StoreDownError
from services.shipper.inserting import GroupInserter, ShipOutcome
from services.shipper.row_writer import RowWriter
from services.shipper.rows import Row, to_rows

FUTURE_DAYS = 366


class Sink:
    """One connection, opened when needed and dropped after any error.

    Rows that are older than `kept_days` days are rejected. With None all days are kept.
    """

    def __init__(self, url: str, kept_days: int | None = None) -> None:
        self._url, self._kept_days = url, kept_days
        self._connection: Any = None
        self._writer: RowWriter | None = None
        self._inserter = GroupInserter()

    @property
    def connected(self) -> bool:
        return self._connection is not None and not self._connection.is_closed()

    async def open(self) -> None:
        """Open the connection if there is none.

        Raises StoreDownError, also if the tables do not exist yet: the shipper never migrates.
        """
        await self._opened()

    async def ship(self, payloads: list[bytes]) -> ShipOutcome:
        """Commit or reject every payload.

        Raises StoreDownError. Then some rows may be committed; ship the whole group again. Raises
        DatabaseRefusesError, a StoreDownError, if PostgreSQL refuses every row.
        """
        writer = await self._opened()
        rows, rejected, unknown = to_rows(payloads)
        outcome = ShipOutcome(rejected=rejected, unknown=unknown)
        with self._translated():
            days = {row.day for row in rows if row.day}
            reasons = {day: await self._why_not(writer, day) for day in days}
            storable = list[Row]()
            for row in rows:
                if row.day and (reason := reasons[row.day]):
                    outcome.rejected.append(RejectedRecord(row.payload, reason))
                else:
                    storable.append(row)
            if storable:
                await self._inserter.insert(writer, storable, outcome)
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

    async def _opened(self) -> RowWriter:
        if self._writer and self.connected:
            return self._writer
        self._writer = None
        with self._translated():
            self._connection = await connect(self._url, "fraudops-shipper")
            writer = RowWriter(self._connection)
            await writer.probe()
        self._writer = writer
        return writer

    async def _why_not(self, writer: RowWriter, day: date) -> str | None:
        """Return why rows of that day are rejected, or None; create the partition if needed."""
        today = datetime.now(UTC).date()
        if day > today + timedelta(days=FUTURE_DAYS):
            return "from the future: was the clock wrong?"
        if self._kept_days is not None and day < today - timedelta(days=self._kept_days):
            return f"older than the {self._kept_days} days that are retained"
        if await writer.has_partition(day):
            return None
        return (
            f"the partition {partition_name(day)} was taken out of the table: "
            "older than what is retained"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Drop the connection and raise StoreDownError for each error that no row causes.

        Such an error rejects no record: the shipper tries again.
        """
        try:
            yield
        except SettingsError as error:
            # A file that the URL names cannot be used. An operator may correct it, so the records
            # must wait.
            raise StoreDownError(str(error)) from error
        except TROUBLE as error:
            self.give_up()
            reason = (
                why_away(error)
                or f"refuses to write (SQLSTATE {sqlstate(error)}): look into its log"
            )
            raise StoreDownError(f"PostgreSQL at {address(self._url)} {reason}") from error
