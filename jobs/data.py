"""`fraudops data`: look at rows, check a file against a schema, fetch the official file, make rows
up, bring a file to the cluster.
"""

from pathlib import Path
from typing import TYPE_CHECKING

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


@click.group(help="Look at, fetch, generate and check data.")
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
    """What the rows are: source, frauds, prevalence, period, digest, ranges."""
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
    """Does FILE fit the schema, and can it be split to train on?"""
    from fraudops.datasets import load, split
    from fraudops.schema import load_schema

    dataset = load(file, load_schema(schema))
    parts = split(dataset)
    rows = {
        name: {"rows": len(part), "frauds": part.frauds}
        for name, part in (
            ("train", parts.train),
            ("validation", parts.validation),
            ("test", parts.test),
        )
    }
    found = {
        "file": str(file),
        "schema": dataset.schema.name,
        "rows": len(dataset),
        "frauds": dataset.frauds,
        "digest": dataset.digest,
        "split": rows,
    }
    found |= {"dropped_duplicates": parts.dropped_duplicates, "dropped_ties": parts.dropped_ties}
    if as_json:
        print_json(found)
        return
    output.print(
        f"{file} fits the schema {dataset.schema.name}: {len(dataset):,} rows, {dataset.frauds:,} frauds",
        markup=False,
    )
    shares = ", ".join(
        f"{name} {part['rows']:,} rows with {part['frauds']:,} frauds"
        for name, part in rows.items()
    )
    output.print(
        f"split by time: {shares}; left out {parts.dropped_duplicates:,} duplicates and {parts.dropped_ties:,} ties"
    )
    output.print(
        f"next: fraudops train --data {file}{f' --schema {schema}' if schema else ''}", markup=False
    )


@command.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to put it; ends in .csv. [default: data/creditcard.csv in the state folder]",
)
@click.option(
    "--mirror",
    "mirrors",
    multiple=True,
    metavar="URL",
    help="Fetch from here instead of the three known mirrors (repeatable, tried in turn).",
)
@click.option(
    "--sha256",
    metavar="HEX",
    help="The checksum that the file must have. [default: the official file's]",
)
@state_option
def fetch(out: Path | None, mirrors: tuple[str, ...], sha256: str | None, state: "State") -> None:
    """The official ULB file (284,807 rows, 151 MB), by its checksum; taken up where an earlier
    attempt broke off.
    """
    from fraudops.datasets.official import MIRRORS, NAME, SHA256, Mirror, fetch
    from fraudops.errors import SettingsError
    from jobs.reports.data import download_bar

    target = out or state.root / "data" / NAME
    # With --sha256 the file is another one, and only the caller knows its format.
    if not sha256 and target.suffix != ".csv":
        raise SettingsError(f"{target}: the official file is a CSV; let the name end in .csv")
    with download_bar(target.name) as progress:
        url = fetch(
            target, tuple(Mirror.at(url) for url in mirrors) or MIRRORS, sha256 or SHA256, progress
        )
    notices.print(
        f"{target}: {'already there' if url is None else f'fetched from {url}'}, checksum right",
        markup=False,
    )
    output.print(f"next: fraudops train --data {target}", markup=False)


@command.command()
@any_state_option
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Ends in .csv, .csv.gz or .parquet.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=100),
    help="How many rows. [default: 20000; with --data: all of them]",
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
    help="Lay the drift over these rows instead of generated ones; `sample` is the packaged sample.",
)
@schema_option
@drift_option
@strength_option
@click.option(
    "--truth",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Also write what each row truly is: pattern, and whether the drift touched it.",
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
    """Rows made up for any schema, or a named drift over real rows."""
    from fraudops.datasets import overlay
    from fraudops.datasets.writing import check_suffix, write_frame

    for path in (out, truth):
        if path is not None:
            check_suffix(path)
    dataset, pattern = (
        _generated(rows, seed, schema, fraud_rate, days)
        if source is None
        else _given(source, schema, rows, seed, drift)
    )
    affected = None
    if drift is not None:
        dataset, affected = overlay(dataset, drift, seed, strength)  # type: ignore[arg-type]  # click has checked the name
    write_frame(dataset.frame, out)
    if truth is not None:
        write_frame(_truth(pattern, affected), truth)
    touched = "" if affected is None else f", {int(affected.sum()):,} of them touched by the drift"
    notices.print(
        f"{out}: {len(dataset):,} rows, {dataset.frauds:,} frauds, {dataset.source}{touched}",
        markup=False,
    )


def _generated(
    rows: int | None, seed: int, schema: Path | None, fraud_rate: float, days: float
) -> "tuple[Dataset, NDArray[np.str_]]":
    from fraudops.datasets import generate
    from fraudops.schema import load_schema

    made = generate(rows or 20_000, seed, load_schema(schema), fraud_rate, days)
    return made.dataset, made.pattern


def _given(
    source: str, schema: Path | None, rows: int | None, seed: int, drift: str | None
) -> "tuple[Dataset, NDArray[np.str_]]":
    import numpy as np

    from fraudops.datasets import load
    from fraudops.datasets.traffic import spread_rows
    from fraudops.errors import SettingsError
    from fraudops.schema import load_schema

    if drift is None:
        raise SettingsError(
            "--data without --drift would only copy the rows; name a drift, or leave --data out"
        )
    dataset = load(None if source == "sample" else source, load_schema(schema))
    dataset = dataset.take(spread_rows(len(dataset), rows, seed)) if rows else dataset
    return dataset, np.where(dataset.y == 1, "fraud", "genuine")


def _truth(pattern: "NDArray[np.str_]", affected: "NDArray[np.bool_] | None") -> "pd.DataFrame":
    import numpy as np
    import pandas as pd

    return pd.DataFrame(
        {
            "pattern": pattern,
            "drifted": np.zeros(len(pattern), dtype=bool) if affected is None else affected,
        }
    )


if __name__ == "__main__":
    run(command)
