"""Split the text of a CSV into rows, whose quoted cells may hold line breaks.

The csv module reads the text: it knows the line of each row. No message quotes a value.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

from fraudops.errors import DataError

# Characters of a line. A longer one would fill the memory. The csv module limits each cell itself.
MAX_LINE = 1 << 20
# The texts of a label, and their classes.
CLASSES = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1}


class CsvRow(NamedTuple):
    """The cells of a row, its first line, and the lines of text that it consists of."""

    line: int
    cells: list[str]
    lines: Sequence[str]

    def fault(self, columns: int) -> str | None:
        """Return why this cannot be one row of `columns` columns, or None."""
        if len(self.cells) != columns:
            return f"{len(self.cells)} values where the header names {columns} columns"
        if len(self.lines) > 1 and sum(_is_whole(line, columns) for line in self.lines) > 1:
            last = self.line + len(self.lines) - 1
            return (
                f"a quoted cell goes on to line {last}, and further rows seem to be in it: is a "
                "quote missing?"
            )
        return None


class CsvRows:
    """Iterates over the rows of a CSV, without empty lines.

    Raises DataError for a wrong quote, and for a line that is too long.
    """

    def __init__(self, text: TextIO, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        # Without `strict`, a quote that is never closed would make a long cell.
        self._reader = csv.reader(self._read(text), strict=True)

    def __iter__(self) -> Iterator[CsvRow]:
        while True:
            line = self._reader.line_num + 1
            self._lines = []
            try:
                cells = next(self._reader, None)
            except csv.Error:
                raise DataError(
                    f"{self._path}: {_lines(line, self._reader.line_num)} cannot be read as CSV: "
                    "is a quote missing? Correct or remove it"
                ) from None
            if cells is None:
                return
            if cells:
                yield CsvRow(line, cells, self._lines)

    def _read(self, text: TextIO) -> Iterator[str]:
        number = 0
        while line := text.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise DataError(
                    f"{self._path}: line {number} has more than {MAX_LINE:,} characters"
                )
            self._lines.append(line)
            yield line


def _lines(first: int, last: int) -> str:
    return f"line {first}:" if last <= first else f"lines {first} to {last}:"


def _is_whole(line: str, columns: int) -> bool:
    """Return whether a line of text seems to be a row of its own."""
    cells = [cell.strip(' \r\n"').lower() for cell in line.split(",")]
    return len(cells) >= columns and any(cell in CLASSES for cell in cells)
