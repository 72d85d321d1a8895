"""Compare what the production version scored recently with that version's own reference.

Drift is a result and not a failure: the exit code is 0.
"""

import asyncio
from datetime import datetime
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
from jobs.options.times import to_moment
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
    return value if value is None or value == LAST else to_moment(value, f", or `{LAST}`")


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
    help=f"Start of the window instead of --hours: an ISO time (UTC), or `{LAST}` for the end of "
    "this version's last run, if it has one.",
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
    """Compare recent traffic with the production version's reference.

    Computes the PSI of every feature and of the score. One value above its threshold is a
    warning; two windows in a row are an alarm. The exit code is 0 in both cases.
    """
    from fraudops.drift.scan import ScanRange, scan, serving_entry
    from fraudops.wiring import read_record

    settings = DriftJobSettings.from_environment()
    record = read_record(settings.cluster, state)
    if settings.cluster.release and record.current is None:
        # The CronJob exists from the installation on. A Job that fails before the first promotion
        # would raise an alert for nothing.
        notices.print(NOTHING_SERVES)
        if as_json:
            print_json({"verdict": None, "reason": NOTHING_SERVES})
        return NOTHING_SERVES
    entry = serving_entry(record)
    scanned = asyncio.run(
        scan(
            state,
            entry,
            settings.drift,
            ScanRange(hours, since),
            settings.model_name,
            settings.audit.keys(),
            public_keys=settings.signing.public_keys_of(state),
            report=report,
        )
    )
    drift_run = scanned.run
    if not as_json:
        show(drift_run)
    scanned.write_report()
    # Print the path only after the file exists: a reader may open it immediately.
    if as_json:
        print_json(drift_run.report())
    elif drift_run.html_path:
        output.print(Text(f"report: {drift_run.html_path}"))
    return f"{wording.title(drift_run)}: {wording.verdict_line(drift_run)}"


def show(found: "DriftRun") -> None:
    """Print the verdict, the columns, the decision rate and what to do."""
    output.print(Text(wording.title(found)))
    output.print(Text(wording.verdict_line(found), STYLES[found.verdict]))
    if found.columns:
        print_table(output, _table(found))
    for line in wording.lines(found):
        output.print(Text(line))
    # A pipe is block-buffered: without this the verdict would appear only after the report.
    output.file.flush()


def _table(found: "DriftRun") -> Table:
    table = Table("column", "PSI", "threshold", "", box=None, pad_edge=False)
    # The score first, then the features with the largest PSI.
    ordered = sorted(found.columns, key=lambda column: (column.name != SCORE, -column.psi))
    for column in ordered[: SHOWN_COLUMNS + 1]:
        name = f"{column.name} (the score)" if column.name == SCORE else column.name
        table.add_row(
            name,
            f"{column.psi:.3f}",
            f"{column.threshold:g}",
            "[bold red]exceeded[/]" if column.exceeded else "",
        )
    hidden = len(ordered) - SHOWN_COLUMNS - 1
    if hidden > 0:
        table.add_row(f"… and {hidden} with less", "", "", "")
    return table


if __name__ == "__main__":
    run(command)
