"""Compares what the production version has scored lately with that version's own reference.

Drift found is a successful run: it exits 0.
"""

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click
from rich.table import Table
from rich.text import Text

from fraudops.drift import wording
from fraudops.drift.psi import SCORE, Verdict
from fraudops.settings import DriftJobSettings
from fraudops.state import State
from fraudops.terminal import print_table
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, notices, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.drift.runs import DriftRun

SHOWN_COLUMNS = 8
NOTHING_SERVES = "no version is in production yet: there is nothing to compare"
LAST = "last"
STYLES: dict[Verdict, str] = {
    "none": "bold green",
    "warning": "bold yellow",
    "alarm": "bold red",
    "not enough rows": "bold yellow",
}


def _to_since(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> datetime | str | None:
    if value is None or value == LAST:
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(
            f"give an ISO time such as 2026-11-02T12:00:00Z, or `{LAST}`"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@on_cluster("drift", "jobs.drift")
@click.command(name="drift")
@click.option(
    "--hours",
    type=click.FloatRange(0, 24 * 366, min_open=True),
    default=24.0,
    show_default=True,
    help="The window: the last N hours.",
)
@click.option(
    "--since",
    callback=_to_since,
    metavar="TIME",
    help=f"The window begins here instead: an ISO time (UTC), or `{LAST}`: where the version's last run ended, if it has one.",
)
@click.option(
    "--report/--no-report",
    default=True,
    show_default=True,
    help="Write an HTML report after the verdict, which takes some seconds more.",
)
@json_option
@state_option
def command(
    hours: float, since: datetime | str | None, report: bool, as_json: bool, state: State
) -> str:
    """Compare what was scored with the production version's reference.

    PSI of every feature and of the score. One above its threshold is a warning, in two windows
    running an alarm; the exit code is 0 either way.
    """
    from fraudops.drift.scan import ScanRange, production_of, scan
    from fraudops.wiring import read_record

    settings = DriftJobSettings.from_environment()
    record = read_record(settings.cluster, state)
    if settings.cluster.release and record.current is None:
        # The schedule begins with the installation: before the first promotion a failed Job would
        # alert for nothing.
        notices.print(NOTHING_SERVES)
        if as_json:
            print_json({"verdict": None, "reason": NOTHING_SERVES})
        return NOTHING_SERVES
    entry = production_of(record)
    scanned = asyncio.run(
        scan(
            state,
            entry,
            settings.drift,
            ScanRange(hours, since),
            settings.model_name,
            settings.audit.keys(),
            report=report,
        )
    )
    found = scanned.found
    if not as_json:
        show(found)
    scanned.write_report()
    # A program may open the report that it reads of, and a person clicks on its line.
    if as_json:
        print_json(found.report())
    elif found.html_path:
        output.print(Text(f"report: {found.html_path}"))
    return f"{wording.title(found)}: {wording.verdict_line(found)}"


def show(found: "DriftRun") -> None:
    """The report as a person reads it: verdict, columns, decision rate, and what to do."""
    output.print(Text(wording.title(found)))
    output.print(Text(wording.verdict_line(found), STYLES[found.verdict]))
    if found.columns:
        print_table(output, _table(found))
    for line in wording.lines(found):
        output.print(Text(line))
    # Through a pipe too the verdict is read before the report is written.
    output.file.flush()


def _table(found: "DriftRun") -> Table:
    table = Table("column", "PSI", "threshold", "", box=None, pad_edge=False)
    ordered = sorted(found.columns, key=lambda column: (column.name != SCORE, -column.psi))
    for column in ordered[: SHOWN_COLUMNS + 1]:
        name = f"{column.name} (the score)" if column.name == SCORE else column.name
        table.add_row(
            name,
            f"{column.psi:.3f}",
            f"{column.threshold:g}",
            "[bold red]exceeded[/]" if column.exceeded else "",
        )
    left = len(ordered) - SHOWN_COLUMNS - 1
    if left > 0:
        table.add_row(f"… and {left} with less", "", "", "")
    return table


if __name__ == "__main__":
    run(command)
