"""Retention of labels and of the counts of refused transactions.

Their tables have no partitions. Expired rows are deleted by ranges of the table's blocks, each in a
transaction of its own: this needs no index, takes no lock that writers wait for, and a killed run
loses nothing. With an export, exactly the exported labels are deleted.
"""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self
from uuid import UUID

from fraudops.audit import parquet
from fraudops.audit.connection import limited_transaction
from fraudops.audit.locking import HeldLock
from fraudops.audit.tables import labels

# 8 MB of a table, some 60,000 labels.
RANGE_BLOCKS = 1_000
LOCK_SECONDS = 20.0
# A label expires by its arrival ($1), because a client chooses `labelled_at`; and after its
# prediction, whose UUIDv7 begins with its time ($2 is the first id that does not expire).
EXPIRED = {
    "labels": """(received_at < $1 OR (
        prediction_id < $2::uuid AND get_byte(uuid_send(prediction_id), 6) >> 4 = 7))""",
    "refusals": "(at < $1 AND $2::uuid IS NOT NULL)",
}
COUNT = "SELECT count(*) FROM {table} WHERE {expired}"
BLOCKS = """
SELECT pg_relation_size(to_regclass($1)) / current_setting('block_size')::bigint"""
DELETE = """
DELETE FROM {table} WHERE ctid >= $3::text::tid AND ctid < $4::text::tid AND {expired}"""
DELETE_IDS = "DELETE FROM labels WHERE id = ANY($1::uuid[])"


class Expiry(NamedTuple):
    """The first moment of arrival, and of a prediction, at which a row does not expire."""

    arrived: datetime
    predicted: datetime

    @classmethod
    def of(cls, today: date, days: int, kept_days: int) -> Self:
        """Keep rows for `days` after their arrival, and predictions for `kept_days`.

        A label does not expire by its prediction while that is kept, or may be younger than `days`.
        """
        return cls(
            _first_moment(today - timedelta(days=days)),
            _first_moment(today - timedelta(days=max(days, kept_days))),
        )

    @property
    def parameters(self) -> tuple[datetime, UUID]:
        return self.arrived, UUID(int=max(0, int(self.predicted.timestamp() * 1000)) << 80)


class DeletedLabels(NamedTuple):
    """The number of deleted labels, and the file that has them if they were exported."""

    rows: int
    file: Path | None = None


async def count_expired(connection: Any, table: str, expiry: Expiry) -> int:
    """Return how many rows of `labels` or `refusals` expire."""
    statement = COUNT.format(table=table, expired=EXPIRED[table])
    return int(await connection.fetchval(statement, *expiry.parameters))


async def delete_expired(connection: Any, held: HeldLock, table: str, expiry: Expiry) -> int:
    """Delete the rows of `labels` or `refusals` that expire.

    Raises the errors of asyncpg, also when the lock of retention is lost. What was deleted until
    then stays deleted.
    """
    statement = DELETE.format(table=table, expired=EXPIRED[table])
    deleted = 0
    for start in range(0, await connection.fetchval(BLOCKS, table), RANGE_BLOCKS):
        await held.check()
        ends = (f"({block},0)" for block in (start, start + RANGE_BLOCKS))
        async with limited_transaction(connection, LOCK_SECONDS):
            done = await connection.execute(statement, *expiry.parameters, *ends)
        deleted += int(done.split()[-1])
    return deleted


async def export_and_delete(
    connection: Any, held: HeldLock, expiry: Expiry, folder: Path
) -> DeletedLabels:
    """Write the expired labels to `labels-YYYYMMDD.parquet` in the folder, then delete them.

    The date is the first one whose labels are kept. A label that the file does not have stays until
    the next run. After a crash between the two steps the next run exports the rest again. Raises
    StoreDownError when the disk refuses the file, and the errors of `delete_expired`.
    """
    if not await count_expired(connection, "labels", expiry):
        return DeletedLabels(0)
    path = free_name(folder, f"labels-{expiry.arrived:%Y%m%d}")
    with parquet.new_parquet_file(path, labels) as file:
        async with connection.transaction():
            where = (f"WHERE {EXPIRED['labels']}", *expiry.parameters)
            await parquet.append(connection, file, "labels", where, lambda _: None)
    try:
        # Another run would export the same labels.
        await held.check()
    except BaseException:
        path.unlink()
        raise
    deleted = 0
    for ids in _exported_ids(path):
        await held.check()
        async with limited_transaction(connection, LOCK_SECONDS):
            done = await connection.execute(DELETE_IDS, ids)
        deleted += int(done.split()[-1])
    return DeletedLabels(deleted, path)


def _exported_ids(path: Path) -> Iterator[list[str]]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(parquet.BATCH, columns=["id"]):
            yield batch.column("id").to_pylist()


def free_name(folder: Path, name: str) -> Path:
    """Return a file name that is not in use.

    Rows of a day that arrive after its export go to a second file.
    """
    number = 1
    while (path := folder / f"{name}{f'-{number}' if number > 1 else ''}.parquet").exists():
        number += 1
    return path


def _first_moment(day: date) -> datetime:
    """Return the first moment of a UTC day."""
    return datetime.fromisoformat(f"{day.isoformat()}T00:00:00+00:00")
