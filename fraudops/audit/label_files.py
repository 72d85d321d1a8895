"""Read labels from a CSV, plain or gzipped, or from a Parquet file, in constant memory.

Only columns by name are converted. No message quotes a value.
"""

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from fraudops.audit.label_csv import CsvRow, CsvRows
from fraudops.errors import DataError, SettingsError

COLUMNS = ("prediction_id", "transaction_id", "label", "labelled_at", "source")
NAMES = COLUMNS[:2]
BATCH_ROWS = 10_000
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
BLOCK = 1 << 20
# The rows of a CSV between two updates of the share that was read.
SHARE_ROWS = 1_000
# In place of a value of a Parquet file that Python cannot hold: a far time, text that is no UTF-8.
UNREADABLE = object()


class FileRow(NamedTuple):
    """One row: its number from 1, its line in a CSV, and its cells by the names in COLUMNS.

    `fault` is the reason why its cells cannot be read, or None.
    """

    row: int
    line: int | None
    cells: Mapping[str, Any]
    fault: str | None = None


@dataclass
class LabelFile:
    """An open file of labels.

    `columns` maps names in COLUMNS to the file's own; a name without a column is missing there.
    `digest` is the SHA-256 of its bytes, in hexadecimal digits. `share` is the part that was read,
    from 0 to 1.
    """

    path: Path
    columns: Mapping[str, str]
    digest: str
    _file: BinaryIO
    _size: int
    _state: tuple[int, int]
    share: float = 0.0

    def rows(self) -> Iterator[FileRow]:
        """Yield all rows. Raises DataError when the file is damaged or lacks a column."""
        self._file.seek(0)
        start = self._file.read(4)
        self._file.seek(0)
        return self._parquet_rows() if start == PARQUET else self._csv_rows(start)

    def check_unchanged(self) -> None:
        """Raise DataError when another program has written to the file since it was opened."""
        if _state(self._file) != self._state:
            raise DataError(f"{self.path}: the file changed while it was read: import it again")

    def _csv_rows(self, start: bytes) -> Iterator[FileRow]:
        with _decompressed(self.path, self._file, start) as binary:
            text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace", newline="")
            try:
                yield from self._text_rows(iter(CsvRows(text, self.path)))
            finally:
                # The destructor of `text` would close the file.
                text.detach()

    def _text_rows(self, rows: Iterator[CsvRow]) -> Iterator[FileRow]:
        header = next(rows, None)
        if header is None or "\0" in "".join(header.cells):
            raise DataError(
                f"{self.path}: not a CSV with a header: save it as CSV in UTF-8, or as Parquet"
            )
        places = self._places(header.cells)
        for row, found in enumerate(rows, 1):
            yield _row(row, found, len(header.cells), places)
            if row % SHARE_ROWS == 0:
                self.share = self._file.tell() / self._size

    def _parquet_rows(self) -> Iterator[FileRow]:
        import pyarrow
        import pyarrow.parquet

        try:
            file = pyarrow.parquet.ParquetFile(self._file)
            places = self._places(file.schema_arrow.names)
            own = {self.columns[name]: name for name in places}
            row = 0
            for batch in file.iter_batches(BATCH_ROWS, columns=list(own), use_threads=False):
                names = [own[name] for name in batch.schema.names]
                for values in zip(*map(_values, batch.columns), strict=True):
                    row += 1
                    yield _parquet_row(row, dict(zip(names, values, strict=True)))
                self.share = row / max(1, file.metadata.num_rows)
        except (pyarrow.ArrowException, OSError):
            # Arrow's message may quote a value.
            raise DataError(
                f"{self.path}: the Parquet file is damaged, or a column has a type that no label "
                "has; write it again"
            ) from None

    def _places(self, header: list[str]) -> dict[str, int]:
        """Return the place of each known column. Raises DataError."""
        header = [name.strip() for name in header]
        places = {
            name: header.index(column) for name, column in self.columns.items() if column in header
        }
        if twice := [name for name in places if header.count(self.columns[name]) > 1]:
            raise DataError(f"{self.path}: two columns have the name {self.columns[twice[0]]!r}")
        needed = [name for name in self.columns if name not in NAMES]
        if missing := [name for name in needed if name not in places]:
            name = missing[0]
            other = ", or give --source NAME" if name == "source" else ""
            raise DataError(
                f"{self.path}: there is no column {self.columns[name]!r}: name the one with the "
                f"{name} by --column {name}=COLUMN{other}"
            )
        if not any(name in places for name in NAMES):
            raise DataError(
                f"{self.path}: there is no column with the prediction_id or the transaction_id: "
                "name it by --column transaction_id=COLUMN"
            )
        return places


@contextmanager
def open_labels(path: Path, columns: Mapping[str, str]) -> Iterator[LabelFile]:
    """Open the file and read it once for its digest. Raises SettingsError."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from error
    with file:
        if not file.seekable():
            raise SettingsError(f"{path} is read twice: give a file, and no pipe")
        state, digest = _state(file), hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
        yield LabelFile(path, columns, digest.hexdigest(), file, max(1, state[0]), state)


def _state(file: BinaryIO) -> tuple[int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns


@contextmanager
def _decompressed(path: Path, file: BinaryIO, start: bytes) -> Iterator[BinaryIO]:
    try:
        if not start.startswith(GZIP):
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unzipped:
            yield unzipped  # type: ignore[misc]  # GzipFile reads as a BinaryIO does
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise DataError(f"{path}: the gzip file is damaged or was cut off: copy it again") from None


def _row(row: int, found: CsvRow, columns: int, places: Mapping[str, int]) -> FileRow:
    if fault := found.fault(columns):
        return FileRow(row, found.line, {}, fault)
    cells = {name: found.cells[place].strip() for name, place in places.items()}
    return FileRow(row, found.line, cells)


def _parquet_row(row: int, cells: Mapping[str, Any]) -> FileRow:
    for name, value in cells.items():
        if value is UNREADABLE:
            return FileRow(row, None, {}, f"the value of {name} cannot be read")
    return FileRow(row, None, cells)


def _values(column: Any) -> list[Any]:
    """Return the values of a column; UNREADABLE for one that Python cannot hold."""
    import pyarrow
    import pyarrow.compute

    kind = column.type
    if pyarrow.types.is_timestamp(kind) and kind.unit == "ns":
        # As JSON is read: the database has microseconds. Other units need no conversion, which
        # could overflow.
        rounded = pyarrow.compute.round_temporal(column, unit="microsecond")
        column = rounded.cast(pyarrow.timestamp("us", kind.tz), safe=False)
    try:
        values: list[Any] = column.to_pylist()
    except (ValueError, OverflowError):
        values = [_value(each) for each in column]
    return values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError):
        return UNREADABLE
