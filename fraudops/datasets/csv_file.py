"""Reads a plain or gzipped CSV into columns of float64.

Arrow reads it fast. The slow csv module reads it again only to find the line number of a fault.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv

from fraudops.datasets.checks import Columns
from fraudops.datasets.header import NUMBER, check_header, first_record
from fraudops.errors import DataError
from fraudops.schema import FeatureSchema

GZIP = b"\x1f\x8b"
# The ways in which spreadsheets and databases write "no value".
MISSING = ("", "NaN", "nan", "-nan", "NA", "N/A", "n/a", "#N/A", "NULL", "null", "None")
INFINITE = frozenset({"inf", "infinity"})
NO_NUMBER = "text where a number belongs"
AS_NUMBER = "write it as 1234.5, without currency, spaces or a decimal comma"


def read_csv(path: Path, schema: FeatureSchema) -> Columns:
    """Return the columns (rows,) by name, with NaN for a missing value.

    Raises DataError, which names the line and the column.
    """
    _check_first_line(path, schema)
    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(schema.columns, pa.float64()),
        include_columns=list(schema.columns),
        null_values=list(MISSING),
        check_utf8=False,
    )
    try:
        with opened(path) as file:
            table = pyarrow.csv.read_csv(
                file,
                convert_options=options,
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            )
    except pa.ArrowInvalid:
        # Arrow's message would show the value, which is card data.
        return _read_line_by_line(path, schema)
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in schema.columns}


def line_of(path: Path, row: int) -> int:
    """Return the line on which a data row begins.

    Lines count from 1, as in an editor. Rows count from 0, without the header and blank lines.
    """
    for index, (line, _cells) in enumerate(_records(path)):
        if index == row + 1:
            return line
    raise DataError(f"{path}: the file changed while it was read; try again")


def _read_line_by_line(path: Path, schema: FeatureSchema) -> Columns:
    """Read the file with the csv module, and raise DataError for the line that Arrow refused.

    If the csv module finds no such line, return the columns: they are equally correct.
    """
    records = _records(path)
    _line, header = next(records)
    rows = [_numbers(cells, header, f"{path}: line {line}", schema) for line, cells in records]
    values = np.array(rows, dtype=np.float64).reshape(len(rows), len(header))
    return {name: values[:, header.index(name)] for name in schema.columns}


def _numbers(cells: list[str], header: list[str], where: str, schema: FeatureSchema) -> list[float]:
    if len(cells) != len(header):
        raise DataError(
            f"{where}: {len(cells)} values where the header names {len(header)} columns; "
            "complete or remove the line"
        )
    numbers = []
    for cell, name in zip(cells, header, strict=True):
        text = cell.strip()
        if NUMBER.fullmatch(text) or text.lower().lstrip("+-") in INFINITE:
            numbers.append(float(text))
        elif text in MISSING:
            numbers.append(float("nan"))
        else:
            raise DataError(f"{where}, column {name!r}: {NO_NUMBER}; {_remedy(name, schema)}")
    return numbers


def _remedy(name: str, schema: FeatureSchema) -> str:
    if name == schema.label:
        return "write 1 for a fraud and 0 for a genuine transaction"
    if name == schema.time:
        return "write the time as a number of seconds"
    return AS_NUMBER


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each record that is not blank, the header first, with the line on which it begins."""
    with (
        opened(path) as file,
        io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="") as text,
    ):
        reader = csv.reader(text)
        line = 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(
                    f"{path}: line {line}: cannot be read as CSV; correct or remove the line"
                ) from error
            if cells:
                yield line, cells
            # `line_num` counts the lines of a quoted value too, so the next record begins here.
            line = reader.line_num + 1


def _check_first_line(path: Path, schema: FeatureSchema) -> None:
    with opened(path) as file:
        start = file.read(4096)
        if b"\0" in start:
            raise DataError(
                f"{path}: not a CSV, but a binary or UTF-16 file; "
                "save it as CSV in UTF-8, or as Parquet"
            )
        lines = (start + file.readline(1 << 20)).decode("utf-8-sig", errors="replace").splitlines()
    line = next((number for number, text in enumerate(lines) if text.strip()), None)
    if line is None:
        raise DataError(f"{path}: the file is empty; give a CSV with a header and rows")
    check_header(first_record(lines[line]), schema, f"{path}: line {line + 1}")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file for reading, and decompress it if it is gzipped.

    Raises DataError for a gzip file that is incomplete or damaged.
    """
    with path.open("rb") as raw:
        zipped = raw.read(2) == GZIP
        raw.seek(0)
        try:
            if not zipped:
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) as file:
                yield file  # type: ignore[misc]  # GzipFile reads as a BinaryIO does
        except EOFError as error:
            raise DataError(
                f"{path}: the gzip file ends early; it was cut off: copy or download it again"
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{path}: the gzip file is damaged; copy or download it again"
            ) from error
