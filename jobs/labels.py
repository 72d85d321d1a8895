"""`fraudops labels`: import labels from a file.

Safe to repeat: a second import of the same file changes nothing.
"""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fraudops.audit import label_files
from fraudops.audit.label_files import COLUMNS
from fraudops.endpoints import database_url
from fraudops.errors import DataError
from fraudops.settings import RetentionJobSettings
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.on_cluster import ClusterSubcommand
from jobs.options.times import to_moment
from jobs.reports.labels import RowLists, import_report, import_summary, import_table, row_lists
from jobs.reports.progress import RowsBar, rows_bar
from jobs.runner import json_option, notices, output, print_json, run, state_option, user_name

if TYPE_CHECKING:
    from fraudops.audit.label_import import LabelImport
    from fraudops.audit.label_rows import LabelRow

PROGRAM = "fraudops-labels"
HELP = """Import the labels of FILE: a CSV, also gzipped, or Parquet.

FILE has the columns prediction_id or transaction_id, label (0 or 1), labelled_at (an ISO time with
a time zone) and source.

If the import is killed, repeat the same command: it goes on where it ended, and gives the same
report. If it has ended, the command prints its report again and changes nothing. A row that is no
label ends the import; the rows before it are imported. Its place is named, its values never are.
"""


@dataclass(frozen=True)
class ImportOptions:
    """The options of an import; `columns` maps names in COLUMNS to those of the file."""

    columns: dict[str, str]
    source: str | None
    since: datetime | None
    bad_rows: Path | None
    report: Path | None

    @property
    def identity(self) -> str:
        """The options that decide what is imported, as text. Another text is another import."""
        since = self.since.isoformat() if self.since else None
        return json.dumps(
            {"columns": self.columns, "since": since, "source": self.source}, sort_keys=True
        )


def _to_columns(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    columns = {name: name for name in COLUMNS}
    for value in values:
        name, assigned, column = value.partition("=")
        if name not in COLUMNS or not assigned:
            names = ", ".join(COLUMNS)
            raise click.BadParameter(f"write it as NAME=COLUMN; NAME is one of {names}")
        columns[name] = column
    return {name: column for name, column in columns.items() if column}


@click.group(help="Import labels from a file.")
def command() -> None:
    pass


@click.command(name="import", help=HELP)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--column",
    "columns",
    multiple=True,
    callback=_to_columns,
    metavar="NAME=COLUMN",
    help="FILE's name of a column, such as transaction_id=txn (repeatable). Without COLUMN, FILE "
    "has no such column.",
)
@click.option("--source", metavar="NAME", help="The source of every label, instead of a column.")
@click.option(
    "--since",
    callback=lambda _context, _parameter, value: value and to_moment(value),
    metavar="TIME",
    help="Search a transaction_id in answers of this day and later ones: an ISO time (UTC). "
    "[default: all days that are kept]",
)
@click.option(
    "--bad-rows",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Write the places of rows that are no labels to this file, with the reason, and go on. "
    "[default: end at the first one]",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Write the places of repeated, unmatched, contradictory and refused rows to this file.",
)
@json_option
@state_option
def import_(
    file: Path,
    columns: dict[str, str],
    source: str | None,
    since: datetime | None,
    bad_rows: Path | None,
    report: Path | None,
    as_json: bool,
    state: State,
) -> str:
    if source is not None:
        columns.pop("source", None)
    options = ImportOptions(columns, source, since, bad_rows, report)
    _check(file, options)
    kept_days = RetentionJobSettings.from_environment().retention.days
    oldest = since.date() if since else datetime.now(UTC).date() - timedelta(days=kept_days)
    url = database_url(state)
    with label_files.open_labels(file, columns) as labels, rows_bar(file.name) as bar:
        importing = asyncio.run(ImportRun(labels, options, oldest, bar).import_into(url))
    if importing.finished_at:
        notices.print(
            f"{file} was imported with these options already, beginning at "
            f"{importing.started_at:%Y-%m-%d %H:%M:%S} UTC: nothing has changed",
            markup=False,
        )
    if as_json:
        print_json(import_report(file, importing))
    else:
        print_table(output, import_table(importing.counts))
    return import_summary(importing.counts)


def _check(file: Path, options: ImportOptions) -> None:
    """Raise DataError for files or a source that cannot be used."""
    from fraudops.audit.label_rows import IDENTIFIER

    paths = [path.absolute() for path in (file, options.bad_rows, options.report) if path]
    if len(set(paths)) < len(paths):
        raise DataError("FILE, --bad-rows and --report must be different files")
    if options.source is not None and not IDENTIFIER.fullmatch(options.source):
        raise DataError("--source must be 1 to 64 letters, digits or . _ : -")


class ImportRun:
    """One run of an import, up to its end or to the first error.

    `oldest` is the first day in whose answers a transaction_id is searched.
    """

    def __init__(
        self, labels: label_files.LabelFile, options: ImportOptions, oldest: date, bar: RowsBar
    ) -> None:
        self._labels, self._options, self._oldest, self._bar = labels, options, oldest, bar
        # Rows that are read and not committed.
        self._pending: list[LabelRow] = []

    async def import_into(self, url: str) -> "LabelImport":
        """Return the import; if it had ended before this run, nothing has changed.

        Raises DataError for a row that is no label, unless it is written to a file, and the errors
        of LabelFile and of LabelImport.
        """
        from fraudops.audit.connection import open_connection
        from fraudops.audit.database import translated
        from fraudops.audit.label_import import LabelImport

        now, identity = datetime.now(UTC), self._options.identity
        with translated(url):
            async with open_connection(url, PROGRAM) as connection:
                importing = await LabelImport.begin(
                    connection, self._labels.digest, identity, now, user_name()
                )
                if importing.finished_at:
                    return importing
                with row_lists(self._options.report, self._options.bad_rows) as lists:
                    # Another process may have imported rows before the lists were locked.
                    importing = await importing.read_again(connection)
                    lists.begin(importing)
                    importing = await self._store_all(connection, importing, lists)
                await importing.finish(connection)
                return importing

    async def _store_all(
        self, connection: Any, importing: "LabelImport", lists: RowLists
    ) -> "LabelImport":
        try:
            for row in self._rows(importing):
                if row.fault and not self._options.bad_rows:
                    raise DataError(
                        f"{self._labels.path}: {row.place}: {row.fault}; correct the row, or let "
                        "the import go on with --bad-rows. The rows before it are imported"
                    )
                self._pending.append(row)
                if len(self._pending) == label_files.BATCH_ROWS:
                    importing = await self._store(connection, importing, lists)
        except DataError:
            await self._store(connection, importing, lists)
            raise
        return await self._store(connection, importing, lists)

    def _rows(self, importing: "LabelImport") -> "Iterable[LabelRow]":
        """Return the rows that are not committed yet."""
        from fraudops.audit.label_rows import LabelParser

        parser = LabelParser(
            self._options.source, datetime.now(UTC), importing.started_at, importing.client
        )
        return map(parser.parse, islice(self._labels.rows(), importing.counts.rows, None))

    async def _store(
        self, connection: Any, importing: "LabelImport", lists: RowLists
    ) -> "LabelImport":
        self._labels.check_unchanged()
        if self._pending:
            importing = await importing.store(connection, self._pending, self._oldest, lists.write)
            self._pending.clear()
            self._bar.update(
                int(self._labels.share * 1_000),
                1_000,
                importing.counts.rows,
                import_summary(importing.counts),
            )
        return importing


command.add_command(ClusterSubcommand(import_, "labels", "jobs.labels"))


if __name__ == "__main__":
    run(command)
