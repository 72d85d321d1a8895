"""`fraudops data`: describe rows, check a file against a schema, fetch, generate and push files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobs.data_push import push
from jobs.options.data import (
    data_option,
    drift_option,
    prevalence_option,
    schema_option,
    strength_option,
)
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
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from fraudops.datasets import Dataset
    from fraudops.state import State

DEFAULT_ROWS = 20_000


@click.group(help="Describe, check, fetch, generate and push data.")
def command() -> None:
    pass


command.add_command(push)


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
    help="Fetch from here instead of the three known mirrors (repeatable, tried in order).",
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


@command.command()
@any_state_option
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The file to write; ends in .csv, .csv.gz or .parquet.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=100),
    help=f"Number of rows. [default: {DEFAULT_ROWS}; with --data: all of them]",
)
@click.option("--seed", default=7, show_default=True, help="The same seed gives the same rows.")
@click.option(
    "--fraud-rate",
    default=0.0017,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="The share of frauds.",
)
@click.option(
    "--days",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0, 3660, min_open=True),
    help="The period that the rows cover.",
)
@click.option(
    "--data",
    "source",
    metavar="FILE",
    help="Apply the drift to these rows instead of generated ones; `sample` is the packaged "
    "sample.",
)
@schema_option
@drift_option
@strength_option
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write the true pattern of each row, and whether the drift changed the row.",
)
def generate(
    out: Path,
    rows: int | None,
    seed: int,
    fraud_rate: float,
    days: float,
    source: str | None,
    schema: Path | None,
    drift: str | None,
    strength: float,
    truth: Path | None,
) -> None:
    """Generate rows for any schema, or apply a drift to existing rows."""
    from fraudops.datasets import overlay
    from fraudops.datasets.writing import check_suffix, write_frame

    # Before the slow part: a wrong suffix must not cost a generation.
    for path in (out, truth):
        if path is not None:
            check_suffix(path)
    dataset, pattern = (
        _generated(rows, seed, schema, fraud_rate, days)
        if source is None
        else _loaded(source, schema, rows, seed, drift)
    )
    affected = None
    if drift is not None:
        # click has checked the name.
        dataset, affected = overlay(dataset, drift, seed, strength)  # type: ignore[arg-type]
    write_frame(dataset.frame, out)
    if truth is not None:
        write_frame(_truth(pattern, affected), truth)
    changed = "" if affected is None else f", {int(affected.sum()):,} of them changed by the drift"
    notices.print(
        f"{out}: {len(dataset):,} rows, {dataset.frauds:,} frauds, {dataset.source}{changed}",
        markup=False,
    )


def _generated(
    rows: int | None, seed: int, schema: Path | None, fraud_rate: float, days: float
) -> "tuple[Dataset, NDArray[np.str_]]":
    """Return generated rows and the pattern of each row."""
    from fraudops.datasets import generate
    from fraudops.schema import load_schema

    generated = generate(rows or DEFAULT_ROWS, seed, load_schema(schema), fraud_rate, days)
    return generated.dataset, generated.pattern


def _loaded(
    source: str, schema: Path | None, rows: int | None, seed: int, drift: str | None
) -> "tuple[Dataset, NDArray[np.str_]]":
    """Return rows of a file and the pattern of each row. Raises SettingsError without a drift."""
    import numpy as np

    from fraudops.datasets import load
    from fraudops.datasets.traffic import spread_rows
    from fraudops.errors import SettingsError
    from fraudops.schema import load_schema

    if drift is None:
        raise SettingsError(
            "--data without --drift would only copy the rows: name a drift, or omit --data"
        )
    dataset = load(None if source == "sample" else source, load_schema(schema))
    dataset = dataset.take(spread_rows(len(dataset), rows, seed)) if rows else dataset
    return dataset, np.where(dataset.y == 1, "fraud", "genuine")


def _truth(pattern: "NDArray[np.str_]", affected: "NDArray[np.bool_] | None") -> "pd.DataFrame":
    import numpy as np
    import pandas as pd

    drifted = np.zeros(len(pattern), dtype=bool) if affected is None else affected
    return pd.DataFrame({"pattern": pattern, "drifted": drifted})


if __name__ == "__main__":
    run(command)
