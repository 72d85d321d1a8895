"""Retention: detach old days of predictions from the table, export them, and drop them.

The export to Parquet is optional. Writers never wait for retention.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from fraudops.audit import parquet
from fraudops.audit.connection import limited_transaction, limits_of_role
from fraudops.audit.label_retention import free_name
from fraudops.audit.locking import HeldLock, advisory_lock
from fraudops.audit.partitions import (
    RETENTION_LOCK,
    Partition,
    ensure_partition,
    partition_name,
    partitions,
)
from fraudops.errors import StoreDownError

# Detaching waits for readers of the table. A statement that waits for a lock makes later readers
# wait too, so it gives up after this time and is tried again.
LOCK_SECONDS = 5
TRIES = 3
PAUSE_SECONDS = 2.0
AHEAD_DAYS = 8


@dataclass(frozen=True)
class Dropped:
    """A day that was dropped; `rows` and `file` are None if it was not exported."""

    day: date
    bytes: int
    rows: int | None = None
    file: Path | None = None


class InUseError(StoreDownError):
    """A statement reads the table for too long. The next run of retention repeats the day."""


def expired(tables: list[Partition], today: date, days: int) -> list[Partition]:
    """Return the partitions that are entirely older than `days` days, the oldest first.

    Tables that an earlier run has detached but not dropped are among them.
    """
    # A pending partition is first: until it is finished, PostgreSQL detaches no other partition.
    return sorted(
        (each for each in tables if each.day < today - timedelta(days=days)),
        key=lambda each: (each.state != "pending", each.day),
    )


@asynccontextmanager
async def only_retention(url: str, program: str) -> AsyncIterator[HeldLock]:
    """Hold the lock of retention for one block.

    Raises StoreDownError while another retention runs.
    """
    async with advisory_lock(url, RETENTION_LOCK, program) as held:
        if not held:
            raise StoreDownError("another retention is running: try again when it has ended")
        yield held


async def make_ahead(connection: Any, today: date) -> list[date]:
    """Create the partitions of today and of the next week; return the days that were missing."""
    existing = {partition.day for partition in await partitions(connection)}
    missing = [
        day
        for day in (today + timedelta(days=number) for number in range(AHEAD_DAYS))
        if day not in existing
    ]
    for day in missing:
        await ensure_partition(connection, day, LOCK_SECONDS)
    return missing


async def remove_day(
    connection: Any, held: HeldLock, partition: Partition, export: Path | None
) -> Dropped:
    """Detach the partition, export it to the folder `export` if one is given, and drop it.

    After a crash the next run continues at the step that was not finished. Raises InUseError, and
    StoreDownError when the disk refuses the export or another program has dropped the day.
    """
    await _retry_when_locked(connection, lambda: _detach(connection, partition.day))
    rows, file = await _export(connection, held, partition, export) if export else (None, None)
    await _retry_when_locked(connection, lambda: _drop(connection, partition.name))
    return Dropped(partition.day, partition.bytes, rows, file)


async def _export(
    connection: Any, held: HeldLock, partition: Partition, folder: Path
) -> tuple[int, Path]:
    """Write the day to a file, and keep the file only while the lock is held.

    An export takes minutes. If the lock is lost within it, another run exports the same day, and
    the rows would be in the archive twice.
    """
    try:
        rows, file = await write_parquet(connection, partition, folder)
    except asyncpg.UndefinedTableError as error:
        raise StoreDownError(
            f"another program has dropped {partition.name}: run the retention again"
        ) from error
    try:
        await held.check()
    except BaseException:
        file.unlink()
        raise
    return rows, file


async def _detach(connection: Any, day: date) -> None:
    """Detach the partition of a day, if it is attached, while others read and write."""
    state = next(
        (each.state for each in await partitions(connection) if each.day == day), "detached"
    )
    if state != "detached":
        # An interrupted DETACH … CONCURRENTLY can only be finished, not started again.
        how = "FINALIZE" if state == "pending" else "CONCURRENTLY"
        # Neither runs in a transaction, so the limit is here: one of the server would be one of the
        # session, which PgBouncer in transaction mode gives to others. Both only wait for readers.
        await connection.execute(
            f"ALTER TABLE predictions DETACH PARTITION {partition_name(day)} {how}",
            timeout=LOCK_SECONDS,
        )


async def _drop(connection: Any, table: str) -> None:
    async with limited_transaction(connection, LOCK_SECONDS):
        await connection.execute(f"DROP TABLE IF EXISTS {table}")


async def _retry_when_locked(connection: Any, step: Callable[[], Any]) -> None:
    """Run a step, up to TRIES times while the table is in use. Raises InUseError."""
    for left in reversed(range(TRIES)):
        try:
            await step()
        except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError, TimeoutError) as error:
            # The network's own timeout is a TimeoutError too.
            if connection.is_closed():
                raise
            if not left:
                reason = f"a statement reads the table for longer than {LOCK_SECONDS} s"
                if isinstance(error, asyncpg.QueryCanceledError):
                    # The server has ended it, not the limit of the client.
                    reason = await limits_of_role(connection) or reason
                raise InUseError(reason) from error
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return


async def write_parquet(connection: Any, partition: Partition, folder: Path) -> tuple[int, Path]:
    """Write the rows of a partition to a new file; return their number and the file.

    Raises StoreDownError when the disk refuses the file.
    """
    path = free_name(folder, partition.name)
    with parquet.new_parquet_file(path) as file:
        async with connection.transaction():
            await parquet.append(connection, file, partition.name, ("",), lambda _: None)
    return file.rows, path
