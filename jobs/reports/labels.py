"""The report of an import of labels: its table, and the files that list single rows."""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from rich.table import Table

from fraudops.errors import SettingsError, StoreDownError

if TYPE_CHECKING:
    from fraudops.audit.label_import import ImportCounts, LabelImport, RowResult

Write = Callable[[Sequence["RowResult"]], None]
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


@contextmanager
def row_files(
    importing: "LabelImport", report: Path | None, bad_rows: Path | None
) -> Iterator[Write]:
    """Open the files, and yield the function that writes the results of the next rows to them.

    What it has written is on the disk when it returns. Lines of rows that were not committed are
    dropped first. No line holds a value of the imported file. Raises SettingsError for a file that
    this import did not write, StoreDownError when the disk refuses a write.
    """
    with ExitStack() as stack:
        outputs = [
            (stack.enter_context(_open_lines(path, column, importing)), text)
            for path, column, text in (
                (report, "result", _marks),
                (bad_rows, "reason", lambda result: result.fault),
            )
            if path
        ]

        def write(results: Sequence["RowResult"]) -> None:
            for file, text in outputs:
                _write(file, importing, results, text)

        yield write


def _marks(result: "RowResult") -> str:
    if result.fault:
        return "refused"
    return " ".join(mark for mark in MARKS if getattr(result, mark))


def _write(
    file: TextIO,
    importing: "LabelImport",
    results: Sequence["RowResult"],
    text_of: Callable[["RowResult"], str],
) -> None:
    writer = csv.writer(file, lineterminator="\n")
    try:
        for result in results:
            if text := text_of(result):
                writer.writerow((importing.client, result.row.row, result.row.line, text))
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise StoreDownError(f"{file.name} cannot be written: check its disk") from error


def _open_lines(path: Path, column: str, importing: "LabelImport") -> TextIO:
    """Open a list of rows behind its last committed line; make it if it is missing."""
    header = f"import,row,line,{column}\n"
    try:
        with path.open("a+b") as file:
            file.seek(0)
            first = file.readline()
            if not first:
                file.write(header.encode())
            elif first != header.encode() or not _cut(file, importing):
                raise SettingsError(f"{path} exists, and is not of this import: name another file")
        return path.open("a", encoding="utf-8", newline="")
    except OSError as error:
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error


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
