"""Rows of `predictions` as Parquet: streamed by a cursor in the order of their ids, so that memory
stays flat; on disk under their name only when whole.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Double, LargeBinary, SmallInteger

from fraudops.audit.partitions import partitions
from fraudops.audit.tables import predictions
from fraudops.errors import SettingsError, StoreDownError
from fraudops.files import publish, temporary_path

if TYPE_CHECKING:
    import pyarrow

NAMES = tuple(column.name for column in predictions.columns)
BATCH = 10_000
SUFFIX = ".parquet"
COLUMNS = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"


async def export(
    connection: Any, since: datetime, until: datetime, path: Path, tell: Callable[[datetime], None]
) -> int:
    """Writes the rows of [since, until) to a new file, day by day, each day as it was at one
    moment; `tell` hears how far it is. How many rows.

    Both are in UTC. Raises SettingsError when the file is there already, StoreDownError when the
    disk does not take it.
    """
    with whole_file(path) as file:
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
                        tell,
                    )
                tell(end)
    return file.rows


async def append(
    connection: Any,
    file: "ParquetFile",
    table: str,
    where: tuple[Any, ...],
    tell: Callable[[datetime], None],
) -> None:
    """The rows of a table, in a transaction of the caller's.

    A day that an earlier release took out lacks the columns that came later: they are null.
    """
    there = {row["attname"] for row in await connection.fetch(COLUMNS, table)}
    columns = ", ".join(f'"{name}"' if name in there else f'NULL AS "{name}"' for name in NAMES)
    # Only our own column and table names enter the statement.
    statement = f"SELECT {columns} FROM {table} {where[0]} ORDER BY id"  # noqa: S608
    cursor = await connection.cursor(statement, *where[1:])
    while batch := await cursor.fetch(BATCH):
        file.write(
            {
                name: [str(row[name]) if name == "id" else row[name] for row in batch]
                for name in NAMES
            },
            len(batch),
        )
        tell(batch[-1]["timestamp"])


class ParquetFile:
    """Raises StoreDownError when the disk does not take what is written."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet

        self.path, self.rows, self._schema = path, 0, _schema()
        with _disk(path):
            self._writer = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, columns: dict[str, list[Any]], rows: int) -> None:
        import pyarrow

        with _disk(self.path):
            self._writer.write_table(pyarrow.table(columns, self._schema))
        self.rows += rows

    def close(self) -> None:
        """Finish the file, and read back that it holds what was written."""
        import pyarrow.parquet

        with _disk(self.path):
            self._writer.close()
            if pyarrow.parquet.read_metadata(self.path).num_rows != self.rows:
                raise StoreDownError(
                    f"{self.path} does not hold what was written to it: check the disk"
                )


def check_new_file(path: Path) -> None:
    """Raises SettingsError for a file that exists, or whose name says another format."""
    if path.exists():
        raise SettingsError(f"{path} exists already: name another file")
    if path.suffix != SUFFIX:
        raise SettingsError(f"{path}: the export is a Parquet file; let its name end in {SUFFIX}")


@contextmanager
def whole_file(path: Path) -> Iterator[ParquetFile]:
    """A file that takes its name, which nobody had, at the end only.

    Raises SettingsError when somebody has it.
    """
    unfinished = temporary_path(path)
    check_new_file(path)
    try:
        file = ParquetFile(unfinished)
        yield file
        file.close()
        with _disk(path):
            publish(unfinished, path, durable=True)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreDownError(
            f"{path} cannot be written ({errno.errorcode.get(error.errno or 0, 'error')}): check its disk"
        ) from error


def _schema() -> "pyarrow.Schema":
    """`features` is its JSON."""
    import pyarrow

    kinds = {
        DateTime: pyarrow.timestamp("us", "UTC"),
        Double: pyarrow.float64(),
        SmallInteger: pyarrow.int16(),
        LargeBinary: pyarrow.binary(),
    }
    return pyarrow.schema(
        [
            (column.name, kinds.get(type(column.type), pyarrow.string()))
            for column in predictions.columns
        ]
    )
