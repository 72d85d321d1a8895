"""Tables of `fraudops data describe`."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from fraudops.terminal import print_table
from jobs.runner import output


def print_summary(summary: dict[str, Any]) -> None:
    """Print the facts about the whole dataset, then one line per feature."""
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
    days = period["length"] / 86400
    return [
        ("source", f"{summary['source']}{note}"),
        ("schema", f"{summary['schema']['name']} ({summary['schema']['fingerprint'][:12]})"),
        ("rows", f"{summary['rows']:,}, {summary['duplicates']:,} of them exact duplicates"),
        ("frauds", f"{summary['frauds']:,} ({summary['fraud_share']:.2%} of the rows)"),
        ("prevalence", natural),
        # The schema does not name the unit of the time column.
        ("period", f"{period['from']:g} to {period['to']:g} ({days:.2f} days, if in seconds)"),
        ("digest", summary["digest"]),
    ]
