"""`fraudops data`: describe rows, check, fetch, generate and push files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.data_generate import generate
from jobs.data_push import push
from jobs.options.data import data_option, prevalence_option, schema_option
from jobs.runner import (
    any_state_option,
    json_option,
    notices,
    output,
    print_json,
    run,
    state_option,
)

if TYPE_CHECKING:
    from fraudops.state import State


@click.group(help="Describe, check, fetch, generate and push data.")
def command() -> None:
    pass


command.add_command(push)
command.add_command(generate)


@command.command()
@any_state_option
@data_option
@schema_option
@prevalence_option
@json_option
def describe(
    source: str | None, schema: Path | None, prevalence: float | None, as_json: bool
) -> None:
    """Show source, frauds, prevalence, period, digest and ranges of the rows."""
    from fraudops.datasets import load
    from fraudops.datasets.summary import summarise
    from fraudops.schema import load_schema
    from jobs.reports.data import print_summary

    summary = summarise(load(source, load_schema(schema), prevalence))
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)


@command.command()
@any_state_option
@click.argument("file", type=click.Path(path_type=Path))
@schema_option
@json_option
def check(file: Path, schema: Path | None, as_json: bool) -> None:
    """Check that FILE fits the schema and can be split for training."""
    from fraudops.datasets import load, split
    from fraudops.schema import load_schema

    dataset = load(file, load_schema(schema))
    parts = split(dataset)
    named = (("train", parts.train), ("validation", parts.validation), ("test", parts.test))
    report: dict[str, Any] = {
        "file": str(file),
        "schema": dataset.schema.name,
        "rows": len(dataset),
        "frauds": dataset.frauds,
        "digest": dataset.digest,
        "split": {name: {"rows": len(part), "frauds": part.frauds} for name, part in named},
        "dropped_duplicates": parts.dropped_duplicates,
        "dropped_ties": parts.dropped_ties,
    }
    if as_json:
        print_json(report)
        return
    _print_check(report)
    schema_words = f" --schema {schema}" if schema else ""
    output.print(f"next: fraudops train --data {file}{schema_words}", markup=False)


def _print_check(report: dict[str, Any]) -> None:
    output.print(
        f"{report['file']} fits the schema {report['schema']}: {report['rows']:,} rows, "
        f"{report['frauds']:,} frauds",
        markup=False,
    )
    shares = ", ".join(
        f"{name} {part['rows']:,} rows with {part['frauds']:,} frauds"
        for name, part in report["split"].items()
    )
    output.print(
        f"split by time: {shares}; dropped {report['dropped_duplicates']:,} duplicates and "
        f"{report['dropped_ties']:,} ties"
    )


@command.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write; ends in .csv. [default: data/creditcard.csv in the state folder]",
)
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="URL",
    # Every process of the machine sees an argument, and a presigned URL is a credential.
    envvar="FRAUDOPS_DATA_URL",
    help="Fetch from here instead of the three known mirrors (repeatable, tried in order). "
    "[env: FRAUDOPS_DATA_URL]",
)
@click.option(
    "--sha256",
    metavar="HEX",
    help="The checksum that the file must have. [default: the official file's]",
)
@state_option
def fetch(out: Path | None, mirrors: tuple[str, ...], sha256: str | None, state: "State") -> None:
    """Fetch the official ULB file (284,807 rows, 151 MB) and verify its checksum.

    An interrupted download continues where it ended.
    """
    from fraudops.datasets.official import MIRRORS, NAME, SHA256, Mirror, fetch
    from fraudops.errors import SettingsError
    from jobs.reports.progress import download_bar

    target = out or state.root / "data" / NAME
    # With --sha256 the file is another one, and only the caller knows its format.
    if not sha256 and target.suffix != ".csv":
        raise SettingsError(f"{target}: the official file is a CSV; use a name in .csv")
    sources = tuple(Mirror.at(url) for url in mirrors) or MIRRORS
    with download_bar(target.name) as progress:
        url = fetch(target, sources, sha256 or SHA256, progress)
    origin = "already there" if url is None else f"fetched from {url}"
    notices.print(f"{target}: {origin}, checksum correct", markup=False)
    output.print(f"next: fraudops train --data {target}", markup=False)


if __name__ == "__main__":
    run(command)
