"""Reads a plain or gzipped CSV in pieces of about `chunk_rows` rows each.

A piece has the lines that begin between two byte offsets. So a shard finds its pieces without
reading those before them.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray

from fraudops.batch.rows import BadRow, Matrix, RowChunk, first_fault, kept_columns, wrong_values
from fraudops.datasets.csv_file import AS_NUMBER, INFINITE, MISSING, NO_NUMBER, opened
from fraudops.datasets.header import NUMBER, check_carries, first_record
from fraudops.errors import DataError
from fraudops.schema import FeatureSchema

MAXIMUM_LINE = 1 << 20
SAMPLED_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20
WALKED_BYTES = 1 << 15
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


class CsvSource:
    """A CSV as pieces. Raises DataError for a file that is not a CSV or lacks a column."""

    place = "line"

    def __init__(
        self, path: Path, schema: FeatureSchema, keep: Sequence[str], chunk_rows: int
    ) -> None:
        self.path, self._schema = path, schema
        with opened(path) as file:
            self._names, self._body = _read_header(file, path)
            sample = file.read(SAMPLED_BYTES)
            self.size = file.seek(0, io.SEEK_END)
        check_carries(self._names, schema.names, str(path))
        self.keep = kept_columns(self._names, keep, str(path))
        # In bytes, from the mean length of the first lines. To find pieces of an exact number of
        # lines, every shard would have to read the file from the start.
        self._chunk = max(1, chunk_rows * len(sample) // max(1, sample.count(b"\n")))
        self.pieces = -(-max(0, self.size - self._body) // self._chunk)
        self.kept_schema = pa.schema(
            [(name, pa.float64() if name in schema.names else pa.string()) for name in self.keep]
        )
        self._begin = self._body
        self._skipped: int | None = None

    def read(self, pieces: range) -> Iterator[RowChunk]:
        """Yield the rows of these pieces in order. Raises DataError for a file that cannot be cut.

        The file must not change during the run.
        """
        if not pieces:
            return
        with opened(self.path) as file:
            start = self._body
            if pieces.start:
                # Skip the line that begins before the offset: it belongs to the piece before. Start
                # one byte earlier, or a line that begins exactly at the offset is skipped too.
                file.seek(self._offset(pieces.start) - 1)
                start = self._offset(pieces.start) - 1 + len(self._line(file))
            else:
                file.seek(start)
            self._begin, lines = start, 0
            for number in pieces:
                block = self._block(file, start, self._offset(number + 1))
                yield self._piece(number, block, lines)
                start, lines = start + len(block), lines + block.count(b"\n")

    def end_of(self, piece: int) -> int:
        """Return the number of bytes from the start of the file to the end of the piece."""
        return min(self._offset(piece + 1), self.size)

    def _offset(self, piece: int) -> int:
        return self._body + piece * self._chunk

    def _block(self, file: BinaryIO, start: int, end: int) -> bytes:
        """Return the lines that begin in [start, end); a line must begin at `start`."""
        if start >= end:
            return b""
        block = file.read(end - 1 - start) + self._line(file)
        # An odd number of quotes means that the block ends inside a quoted value. Then the lines
        # are not the rows, and a cut at a line would tear a row apart.
        if block.count(b'"') % 2:
            raise DataError(
                f"{self.path}: a quoted value contains a line break, or a quote is not closed; "
                "save the file as Parquet, or without them"
            )
        return block

    def _line(self, file: BinaryIO) -> bytes:
        line = file.readline(MAXIMUM_LINE)
        if len(line) == MAXIMUM_LINE:
            raise DataError(
                f"{self.path}: a line of more than {MAXIMUM_LINE >> 20} MiB; "
                "save the file with a line for each row"
            )
        return line

    def _piece(self, number: int, block: bytes, lines: int) -> RowChunk:
        parts = list(self._parts(number, block, lines))
        if len(parts) == 1:
            return parts[0]
        return RowChunk(
            number,
            np.concatenate([part.x for part in parts]),
            pa.concat_tables([part.kept for part in parts]),
            [bad for part in parts for bad in part.bad],
        )

    def _parts(self, number: int, block: bytes, lines: int) -> Iterator[RowChunk]:
        """Yield the rows of the block, in one or more parts.

        Arrow reads a block in which every row is valid. Any other block is halved, and the small
        blocks that remain are read line by line. So one bad row does not slow down the whole piece.

        `lines` is the number of lines between the start of the reading and the block.
        """
        valid = self._read_fast(number, block)
        middle = block.find(b"\n", len(block) // 2) + 1
        if valid is not None:
            yield valid
        elif (
            len(block) > WALKED_BYTES
            and 0 < middle < len(block)
            # Not inside a quoted value: its line break is not the end of a row.
            and not block.count(b'"', 0, middle) % 2
        ):
            yield from self._parts(number, block[:middle], lines)
            yield from self._parts(number, block[middle:], lines + block.count(b"\n", 0, middle))
        else:
            yield self._read_line_by_line(number, block, lines)

    def _read_fast(self, number: int, block: bytes) -> RowChunk | None:
        """Read the block with Arrow; return None unless every row is valid."""
        try:
            table = self._parse(block)
        except pa.ArrowInvalid:
            return None
        x: Matrix = np.empty((len(table), len(self._schema.features)))
        for position, name in enumerate(self._schema.names):
            x[:, position] = table.column(name).to_numpy()
        return (
            None
            if wrong_values(x, self._schema).any()
            else RowChunk(number, x, table.select(list(self.keep)), ())
        )

    def _parse(self, block: bytes) -> pa.Table:
        types = dict.fromkeys(self.keep, pa.string()) | dict.fromkeys(
            self._schema.names, pa.float64()
        )
        convert = pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=list(MISSING)
        )
        parse = pyarrow.csv.ParseOptions(newlines_in_values=b'"' in block)
        return pyarrow.csv.read_csv(
            pa.BufferReader(block),
            read_options=pyarrow.csv.ReadOptions(column_names=self._names),
            parse_options=parse,
            convert_options=convert,
        )

    def _read_line_by_line(self, number: int, block: bytes, lines: int) -> RowChunk:
        """Read the block with the csv module, and name the line of every bad row."""
        numeric, bad = list[tuple[int, list[str], list[float]]](), list[BadRow]()
        places = [self._names.index(name) for name in self._schema.names]
        for line, cells in self._records(block, lines):
            fault = self._unreadable(cells, places)
            if cells is not None and fault is None:
                numeric.append((line, cells, [_number(cells[place]) for place in places]))
            elif fault is not None:
                bad.append(BadRow(line, *fault, _as_line(cells or ())))
        x: Matrix = np.array([values for _, _, values in numeric], dtype=np.float64).reshape(
            len(numeric), len(places)
        )
        wrong = wrong_values(x, self._schema)
        good: NDArray[np.bool_] = ~np.any(wrong, axis=1)
        for index in np.flatnonzero(~good).tolist():
            bad.append(
                BadRow(
                    numeric[index][0],
                    *first_fault(x[index], wrong[index], self._schema),
                    _as_line(numeric[index][1]),
                )
            )
        return RowChunk(
            number, x[good], self._kept(numeric, x, good), sorted(bad, key=lambda row: row.number)
        )

    def _kept(
        self,
        numeric: Sequence[tuple[int, list[str], list[float]]],
        x: Matrix,
        good: NDArray[np.bool_],
    ) -> pa.Table:
        """Return the kept columns of the good rows, in the types that `_read_fast` gives them."""
        columns = [
            x[good, self._schema.names.index(name)]
            if name in self._schema.names
            else [
                cells[self._names.index(name)]
                for (_, cells, _), is_good in zip(numeric, good, strict=True)
                if is_good
            ]
            for name in self.keep
        ]
        return pa.table(columns, schema=self.kept_schema)

    def _unreadable(
        self, cells: list[str] | None, places: Sequence[int]
    ) -> tuple[str | None, str] | None:
        """Return the column, if one is at fault, and the reason why a row cannot be read.

        Return None when every feature is a number, even one that the schema does not allow.
        """
        if cells is None:
            return None, "cannot be read as CSV; correct or remove the line"
        if len(cells) != len(self._names):
            return (
                None,
                f"{len(cells)} values where the header names {len(self._names)} columns; "
                "complete or remove the line",
            )
        for place in places:
            if not _is_number(cells[place]):
                return self._names[place], f"{NO_NUMBER}; {AS_NUMBER}"
        for name in self.keep:
            if _NOT_UTF8.search(cells[self._names.index(name)]):
                return name, "the text is not UTF-8; save the file as UTF-8"
        return None

    def _records(self, block: bytes, lines: int) -> Iterator[tuple[int, list[str] | None]]:
        """Yield each record that is not blank, with the line on which it begins.

        The cells are None for a record that the csv module refuses.
        """
        # The bytes that are not UTF-8 become surrogates, which `_unreadable` finds.
        reader = csv.reader(io.StringIO(block.decode("utf-8", "surrogateescape"), newline=""))
        before = self._lines_skipped() + lines
        while True:
            line = before + reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:
                yield line, None
                continue
            if cells:
                yield line, cells

    def _lines_skipped(self) -> int:
        """Count the lines before the start of the reading, once and only for the first bad row."""
        if self._skipped is None:
            self._skipped, remaining = 0, self._begin
            with opened(self.path) as file:
                while remaining and (chunk := file.read(min(CHUNK_BYTES, remaining))):
                    self._skipped += chunk.count(b"\n")
                    remaining -= len(chunk)
        return self._skipped


def _read_header(file: BinaryIO, path: Path) -> tuple[list[str], int]:
    """Return the column names and the offset of the first line after them. Raises DataError."""
    while True:
        line = file.readline(MAXIMUM_LINE)
        if b"\0" in line:
            raise DataError(
                f"{path}: not a CSV, but a binary or UTF-16 file; "
                "save it as CSV in UTF-8, or as Parquet"
            )
        if not line:
            raise DataError(f"{path}: the file is empty; give a CSV with a header and rows")
        text = line.decode("utf-8-sig", errors="replace").rstrip("\r\n")
        if text.strip():
            return first_record(text), file.tell()


def _is_number(cell: str) -> bool:
    text = cell.strip()
    return bool(NUMBER.fullmatch(text)) or text in MISSING or text.lower().lstrip("+-") in INFINITE


def _number(cell: str) -> float:
    text = cell.strip()
    return float("nan") if text in MISSING else float(text)


def _as_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()
