"""Whole days of predictions leave the audit: taken out of the table, written to Parquet where
asked, dropped. No writer ever waits for it.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import asyncpg

from fraudops.audit import parquet
from fraudops.audit.partitions import (
    RETENTION_LOCK,
    Partition,
    ensure_partition,
    partition_name,
    partitions,
)
from fraudops.errors import StoreDownError

# Detaching waits for those who read the table; a lock is asked for this long at most, then again
# later.
LOCK_SECONDS = 5
TRIES = 3
PAUSE_SECONDS = 2.0
AHEAD_DAYS = 8


@dataclass(frozen=True)
class Dropped:
    """A day that has left the audit; `rows` and `file` where it was exported."""

    day: date
    bytes: int
    rows: int | None = None
    file: Path | None = None


class InUseError(StoreDownError):
    """Somebody reads the table for longer than is waited for; the day's detaching goes on at the
    next run.
    """


def expired(found: list[Partition], today: date, days: int) -> list[Partition]:
    """The partitions of which every moment is more than `days` days ago; what an earlier run left
    detached is among them.

    Oldest first, but before all the one whose detaching is pending: PostgreSQL begins no other
    one meanwhile.
    """
    return sorted(
        (each for each in found if each.day < today - timedelta(days=days)),
        key=lambda each: (each.state != "pending", each.day),
    )


async def begin(connection: Any) -> None:
    """Raises StoreDownError while another retention runs."""
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", RETENTION_LOCK):
        raise StoreDownError("another retention is running: try again when it has ended")
    await connection.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")


async def make_ahead(connection: Any, today: date) -> list[date]:
    """Today's partition and the next week's; the days that were missing."""
    there = {partition.day for partition in await partitions(connection)}
    missing = [
        day
        for day in (today + timedelta(days=number) for number in range(AHEAD_DAYS))
        if day not in there
    ]
    for day in missing:
        await ensure_partition(connection, day)
    return missing


async def take_out(connection: Any, partition: Partition, export: Path | None) -> Dropped:
    """Detach, export, drop.

    Killed in between, the next run goes on from there. Raises InUseError.
    """
    await _patiently(lambda: _detach(connection, partition.day))
    rows, file = await write_parquet(connection, partition, export) if export else (None, None)
    await _patiently(lambda: connection.execute(f"DROP TABLE IF EXISTS {partition.name}"))
    return Dropped(partition.day, partition.bytes, rows, file)


async def _detach(connection: Any, day: date) -> None:
    """CONCURRENTLY: others read and write on meanwhile.

    An attempt that was given up is finished, it cannot be begun again.
    """
    state = next(
        (found.state for found in await partitions(connection) if found.day == day), "detached"
    )
    if state != "detached":
        how = "FINALIZE" if state == "pending" else "CONCURRENTLY"
        await connection.execute(
            f"ALTER TABLE predictions DETACH PARTITION {partition_name(day)} {how}"
        )


async def _patiently(step: Callable[[], Any]) -> None:
    for left in reversed(range(TRIES)):
        try:
            await step()
        except asyncpg.LockNotAvailableError as error:
            if not left:
                raise InUseError(
                    f"the table is being read for longer than {LOCK_SECONDS} s at a time"
                ) from error
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            return


async def write_parquet(connection: Any, partition: Partition, folder: Path) -> tuple[int, Path]:
    """The rows and the file, never over an earlier one.

    Raises StoreDownError when the disk does not take them.
    """
    path = _free_name(folder, partition.name)
    with parquet.whole_file(path) as file:
        async with connection.transaction():
            await parquet.append(connection, file, partition.name, ("",), lambda _: None)
    return file.rows, path


def _free_name(folder: Path, name: str) -> Path:
    """Rows of a day that arrive after its export make a second file."""
    number = 1
    while (path := folder / f"{name}{f'-{number}' if number > 1 else ''}.parquet").exists():
        number += 1
    return path
