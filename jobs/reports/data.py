"""Tables and bars of `fraudops data`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from fraudops.terminal import print_table
from jobs.runner import notices, output


def print_summary(summary: dict[str, Any]) -> None:
    """The dataset at a glance, then a line a feature."""
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(summary):
        facts.add_row(f"[bold]{name}[/]", escape(value))
    print_table(output, facts)
    output.print()
    table = Table("feature", box=None)
    for name in ("minimum", "1 %", "median", "99 %", "maximum", "allowed"):
        table.add_column(name, justify="right")
    for name, column in summary["columns"].items():
        values = [f"{column[key]:.4g}" for key in ("minimum", "p01", "median", "p99", "maximum")]
        table.add_row(name, *values, "{:g} to {:g}".format(*column["allowed"]))
    print_table(output, table)


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    period, prevalence = summary["period"], summary["prevalence"]
    natural = (
        "as collected (none given)"
        if prevalence is None
        else f"{prevalence:.4%} of all transactions are frauds"
    )
    note = (
        " (a sample of the public ULB data, its frauds enriched; not the full benchmark)"
        if summary["sample"]
        else ""
    )
    return [
        ("source", f"{summary['source']}{note}"),
        ("schema", f"{summary['schema']['name']} ({summary['schema']['fingerprint'][:12]})"),
        ("rows", f"{summary['rows']:,}, {summary['duplicates']:,} of them exact duplicates"),
        ("frauds", f"{summary['frauds']:,} ({summary['fraud_share']:.2%} of the rows)"),
        ("prevalence", natural),
        (
            "period",
            f"{period['from']:g} to {period['to']:g} ({period['length'] / 86400:.2f} days, if in seconds)",
        ),
        ("digest", summary["digest"]),
    ]


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar on standard error; yields what to tell it: bytes so far, bytes in all."""
    columns = (
        TextColumn(escape(name)),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notices, transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def count_bar(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error; yields what to tell it: how many are done."""
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notices, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.update(task, completed=done)
