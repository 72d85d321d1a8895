"""The report of an import of labels: its table, and the files that list single rows."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rich.table import Table

from fraudops.errors import SettingsError, StoreDownError
from fraudops.files import try_lock

if TYPE_CHECKING:
    from fraudops.audit.label_import import ImportCounts, LabelImport, RowResult

MARKS = ("repeated", "unmatched", "contradictory")


def import_table(counts: "ImportCounts") -> Table:
    """Return a table with one count per line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name, count, text in (
        ("rows", counts.rows, ""),
        ("  new", counts.inserted, ""),
        ("  repeated", counts.repeated, "the audit had them, or an earlier row is the same"),
        ("  refused", counts.refused, "no labels"),
        ("matched", counts.matched, "of the new and the repeated rows"),
        ("unmatched", counts.unmatched, "no answer has their id"),
        ("contradictory", counts.contradictory, "another label of the transaction differs"),
    ):
        table.add_row(name, f"{count:,}", text)
    return table


def import_summary(counts: "ImportCounts") -> str:
    """Return the counts as one line."""
    return (
        f"{counts.rows:,} rows: {counts.inserted:,} new labels, {counts.repeated:,} repeated, "
        f"{counts.refused:,} refused; {counts.unmatched:,} unmatched, "
        f"{counts.contradictory:,} contradictory"
    )


def import_report(file: Path, importing: "LabelImport") -> dict[str, Any]:
    """Return the object that `--json` prints."""
    return {
        "file": str(file),
        "client": importing.client,
        "started_at": importing.started_at.isoformat(),
        **asdict(importing.counts),
        "matched": importing.counts.matched,
    }


class RowLists:
    """The files that list single rows: `write` adds the results of the next rows to them.

    No line holds a value of the imported file. While they are open, no other process writes to
    them. Raises StoreDownError when the disk refuses a write.
    """

    def __init__(self, lists: Sequence["_RowList"]) -> None:
        self._lists = lists

    def begin(self, importing: "LabelImport") -> None:
        """Drop the lines of rows that are not committed.

        Raises SettingsError for a file that this import did not write.
        """
        for each in self._lists:
            each.begin(importing)

    def write(self, results: Sequence["RowResult"]) -> None:
        """Write the results; they are on the disk when it returns."""
        for each in self._lists:
            each.write(results)


@contextmanager
def row_lists(report: Path | None, bad_rows: Path | None) -> Iterator[RowLists]:
    """Open and lock the files; make them if they are missing.

    Raises SettingsError, and StoreDownError while another process writes to one of them.
    """
    with ExitStack() as stack:
        yield RowLists(
            [
                _RowList(stack.enter_context(_open_locked(path)), path, column, text)
                for path, column, text in (
                    (report, "result", _marks),
                    (bad_rows, "reason", lambda result: result.fault),
                )
                if path
            ]
        )


def _marks(result: "RowResult") -> str:
    if result.fault:
        return "refused"
    return " ".join(mark for mark in MARKS if getattr(result, mark))


class _RowList:
    """One list, with a line for each row for which `text_of` returns a text."""

    def __init__(
        self, file: BinaryIO, path: Path, column: str, text_of: Callable[["RowResult"], str]
    ) -> None:
        self._file, self._path, self._text_of = file, path, text_of
        self._header = f"import,row,line,{column}\n".encode()
        self._client = ""

    def begin(self, importing: "LabelImport") -> None:
        self._client = importing.client
        self._file.seek(0)
        first = self._file.readline()
        if not first:
            self._save(self._header)
        elif first != self._header or not _cut(self._file, importing):
            raise SettingsError(
                f"{self._path} exists, and is not of this import: name another file"
            )

    def write(self, results: Sequence["RowResult"]) -> None:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        for result in results:
            if text := self._text_of(result):
                writer.writerow((self._client, result.row.row, result.row.line, text))
        self._save(lines.getvalue().encode())

    def _save(self, lines: bytes) -> None:
        try:
            self._file.write(lines)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StoreDownError(f"{self._path} cannot be written: check its disk") from error


def _open_locked(path: Path) -> BinaryIO:
    try:
        file = path.open("a+b")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error
    if not try_lock(file.fileno()):
        file.close()
        raise StoreDownError(
            f"another process writes to {path}: try again when it has ended, or name another file"
        )
    return file


def _cut(file: BinaryIO, importing: "LabelImport") -> bool:
    """Remove the lines of rows that are not committed. Return False for another import's file."""
    end = file.tell()
    # A kill may have left half a line at the end.
    while (line := file.readline()).endswith(b"\n"):
        client, number, *_ = [*line.split(b",", 2), b""]
        if client != importing.client.encode() or not number.isdigit():
            return False
        if int(number) > importing.counts.rows:
            break
        end = file.tell()
    file.truncate(end)
    return True
