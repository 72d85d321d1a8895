"""Export of rows of `predictions` or of `labels` to a Parquet file.

Rows are streamed by a cursor in the order of their ids, so that memory stays constant. The file
gets its name only when it is complete and on the disk.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Double, LargeBinary, SmallInteger, Table
from sqlalchemy.dialects.postgresql import UUID

from fraudops.audit.partitions import partitions
from fraudops.audit.tables import predictions
from fraudops.errors import SettingsError, StoreDownError
from fraudops.files import publish, temporary_path

if TYPE_CHECKING:
    import pyarrow

BATCH = 10_000
SUFFIX = ".parquet"
COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"""
# Called with the time of the last row that is written.
Progress = Callable[[datetime], None]


async def export(
    connection: Any, since: datetime, until: datetime, path: Path, progress: Progress
) -> int:
    """Write the rows of [since, until) to a new file, and return their number.

    The times are in UTC. Each day is read in one snapshot. Raises SettingsError when the file
    exists, StoreDownError when the disk refuses it, and the errors of asyncpg.
    """
    with new_parquet_file(path) as file:
        for day in [part.day for part in await partitions(connection) if part.state == "attached"]:
            midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
            start, end = max(since, midnight), min(until, midnight + timedelta(days=1))
            if start < end:
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    await append(
                        connection,
                        file,
                        "predictions",
                        ('WHERE "timestamp" >= $1 AND "timestamp" < $2', start, end),
                        progress,
                    )
                progress(end)
    return file.rows


async def append(
    connection: Any,
    file: "ParquetFile",
    table: str,
    where: tuple[Any, ...],
    progress: Progress,
) -> None:
    """Append the rows of a table to the file, in the order of their ids.

    `where` is a condition and its parameters. The caller must have begun a transaction, which the
    cursor needs.
    """
    # A partition that an earlier release detached lacks later columns: they are null.
    present = {row["attname"] for row in await connection.fetch(COLUMNS, table)}
    columns = ", ".join(
        f'"{name}"' if name in present else f'NULL AS "{name}"' for name in file.names
    )
    # Only our own column and table names enter the statement.
    statement = f"SELECT {columns} FROM {table} {where[0]} ORDER BY id"  # noqa: S608
    # `connection.cursor` would give its statement a name, and leave it on a connection that
    # PgBouncer in transaction mode then gives to another client.
    cursor = await (await connection.prepare(statement)).cursor(*where[1:])
    while batch := await cursor.fetch(BATCH):
        file.write({name: [row[name] for row in batch] for name in file.names}, len(batch))
        progress(batch[-1][file.moment])


class ParquetFile:
    """A Parquet file that is being written, with the columns of a table.

    `moment` is the column with the time of a row. Its methods raise StoreDownError when the disk
    refuses a write.
    """

    def __init__(self, path: Path, table: Table) -> None:
        import pyarrow.parquet

        self.path, self.rows, self._schema = path, 0, _schema(table)
        self.names = tuple(column.name for column in table.columns)
        self.moment = "timestamp" if table is predictions else "received_at"
        self._ids = {column.name for column in table.columns if isinstance(column.type, UUID)}
        with _disk(path):
            self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, columns: dict[str, list[Any]], rows: int) -> None:
        import pyarrow

        for name in self._ids:
            columns[name] = [None if value is None else str(value) for value in columns[name]]
        with _disk(self.path):
            self._writer.write_table(pyarrow.table(columns, self._schema))
        self.rows += rows

    def close(self) -> None:
        """Finish the file, and check that it has as many rows as were written."""
        import pyarrow.parquet

        with _disk(self.path):
            self._writer.close()
            if pyarrow.parquet.read_metadata(self.path).num_rows != self.rows:
                raise StoreDownError(
                    f"{self.path} does not hold the rows that were written: check the disk"
                )


def check_new_file(path: Path) -> None:
    """Raise SettingsError for a file that exists, or whose name ends in another suffix."""
    if path.exists():
        raise SettingsError(f"{path} exists already: name another file")
    if path.suffix != SUFFIX:
        raise SettingsError(f"{path}: the export is a Parquet file: use a name in {SUFFIX}")


@contextmanager
def new_parquet_file(path: Path, table: Table = predictions) -> Iterator[ParquetFile]:
    """Open a new file for rows of a table. It gets its name when the block ends well.

    Raises SettingsError when the name is taken, StoreDownError when the disk refuses the file.
    """
    unfinished = temporary_path(path)
    check_new_file(path)
    try:
        file = ParquetFile(unfinished, table)
        yield file
        file.close()
        with _disk(path):
            publish(unfinished, path, durable=True)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Raise StoreDownError for an OSError."""
    try:
        yield
    except OSError as error:
        name = errno.errorcode.get(error.errno or 0, "error")
        raise StoreDownError(f"{path} cannot be written ({name}): check its disk") from error


def _schema(table: Table) -> "pyarrow.Schema":
    """Return the file's schema. `features` is JSON text."""
    import pyarrow

    kinds = {
        DateTime: pyarrow.timestamp("us", "UTC"),
        Double: pyarrow.float64(),
        SmallInteger: pyarrow.int16(),
        LargeBinary: pyarrow.binary(),
    }
    return pyarrow.schema(
        [(column.name, kinds.get(type(column.type), pyarrow.string())) for column in table.columns]
    )
