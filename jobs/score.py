"""`fraudops score`: a file of transactions to a file of scores. Batch scores are not audited."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fraudops.errors import RefusedError, SettingsError
from fraudops.settings import ClusterJobSettings
from fraudops.state import State
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, notices, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.batch.plan import Counts, Layout, Summary
    from fraudops.batch.run import Progress as Tell

INDEX = "JOB_COMPLETION_INDEX"
SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
HELP = """Score the rows of FILE (CSV, also gzipped, or Parquet) with the model that serves.

The output has FILE's transaction_id and entity_key where it has them, the columns that --keep names, and fraud_probability, prediction, model_version and
threshold, in FILE's order. It appears under its name only when it is whole, with OUT.json beside it: what was scored with what. Killed and started again, the
same command goes on where it was, with the version that it began with, and ends with the same bytes; its pieces lie in OUT.parts.

Batch scores are not decisions: they are not audited, and monitor and drift do not see them.
"""


def _to_shard(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    if value is None:
        return None
    found = SHARD.fullmatch(value)
    if not found or not int(found[1]) < int(found[2]):
        raise click.BadParameter("give it as I/N, I from 0 to N-1, such as 0/4")
    return int(found[1]), int(found[2])


@on_cluster("score")
@click.command(name="score", help=HELP)
@click.argument(
    "file",
    required=False,
    envvar="FRAUDOPS_DATA",
    type=click.Path(path_type=Path),
    metavar="[FILE]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Ends in .csv or .parquet. [default: beside FILE, with .scores before its suffix]",
)
@click.option(
    "--version",
    metavar="N",
    help="Another version than the one that serves; `latest` is the newest.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="COLUMN",
    help="A column to take over (repeatable); as text, where FILE is a CSV and it is no feature.",
)
@click.option(
    "--bad-rows",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Set rows that cannot be scored aside here, with the reason. [default: refuse]",
)
@click.option(
    "--shard",
    callback=_to_shard,
    metavar="I/N",
    help="Score the I-th of N shards (from 0) into OUT.part-I-of-N; the last one to end joins them.",
)
@click.option(
    "--shards",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help=f"The same in an Indexed Job, where {INDEX} is I.",
)
@click.option("--merge", is_flag=True, help="Only join the shards of OUT, which must all be there.")
@click.option(
    "--chunk-rows",
    type=click.IntRange(1, 10_000_000),
    default=65_536,
    show_default=True,
    help="How many rows are in memory at a time.",
)
@json_option
@state_option
def command(
    file: Path | None,
    out: Path | None,
    version: str | None,
    keep: tuple[str, ...],
    bad_rows: Path | None,
    shard: tuple[int, int] | None,
    shards: int | None,
    merge: bool,
    chunk_rows: int,
    as_json: bool,
    state: State,
) -> str:
    from fraudops.batch.model import BatchModels
    from fraudops.batch.plan import Layout, Summary
    from fraudops.batch.run import Order, score_file

    target = _target(file, out)
    layout = Layout(target)
    if merge:
        return _show(_merge(layout), layout, as_json)
    if file is None:
        raise SettingsError("which FILE? name a CSV or Parquet file of transactions")
    if shard and shards:
        raise SettingsError("give --shard or --shards, not both")
    index, count = shard or _indexed(shards)
    _check_distinct(file, target, bad_rows)
    order = Order(file, target, version, keep, bad_rows, index, count, chunk_rows)
    with _bar(f"shard {index} of {count}" if count > 1 else file.name) as tell:
        found = score_file(order, BatchModels(ClusterJobSettings.from_environment(), state), tell)
    if isinstance(found, Summary):
        return _show(found, layout, as_json)
    if as_json:
        print_json({"shard": index, "shards": count, **msgspec.to_builtins(found)})
    said = f"shard {index} of {count} is whole: {_counted(found)}; the last shard to end joins them"
    notices.print(said, markup=False)
    return said


def _target(file: Path | None, out: Path | None) -> Path:
    if out is not None:
        return out
    if file is None:
        raise SettingsError("which output? name it with --out")
    name = file.name.removesuffix(".gz")
    return file.with_name(
        f"{name.removesuffix(file.suffix).removesuffix('.csv')}.scores{'.parquet' if name.endswith('.parquet') else '.csv'}"
    )


def _indexed(shards: int | None) -> tuple[int, int]:
    """Shard and number of shards. Raises SettingsError outside of an Indexed Job."""
    if shards is None:
        return 0, 1
    index = os.environ.get(INDEX, "")
    if not index.isdigit():
        raise SettingsError(
            f"--shards belongs to an Indexed Job ({INDEX} is not set); here run --shard 0/{shards} to --shard {shards - 1}/{shards}"
        )
    if int(index) >= shards:
        raise SettingsError(
            f"{INDEX} is {index}, but --shards says {shards}: let the Job have as many completions"
        )
    return int(index), shards


def _check_distinct(file: Path, out: Path, bad_rows: Path | None) -> None:
    paths = [path.absolute() for path in (file, out, *([bad_rows] if bad_rows else []))]
    if len(set(paths)) < len(paths):
        raise SettingsError("FILE, --out and --bad-rows must be different files")
    if bad_rows and bad_rows.suffix != ".csv":
        raise SettingsError(f"{bad_rows}: rows are set aside as CSV; let it end in .csv")


def _merge(layout: "Layout") -> "Summary":
    """Raises RefusedError while shards are missing, SettingsError when there is nothing to join."""
    from fraudops.batch.plan import BatchPlan, load
    from fraudops.batch.run import join, missing_shards

    plan = load(layout.plan, BatchPlan)
    summary = join(layout)
    if summary is not None:
        return summary
    if plan is None:
        raise SettingsError(
            f"{layout.out}: there is no run to join; score its shards first, with --shard I/N"
        )
    missing = ", ".join(map(str, missing_shards(layout, plan)))
    raise RefusedError(
        f"{layout.out}: of {plan.shards} shards these are not whole: {missing}; score each with --shard I/{plan.shards}"
    )


def _show(found: "Summary", layout: "Layout", as_json: bool) -> str:
    plan = found.plan
    if as_json:
        print_json(
            {
                "out": str(layout.out),
                **msgspec.to_builtins(plan),
                **msgspec.to_builtins(found.counts),
            }
        )
    said = f"{layout.out}: {_counted(found.counts)}, version {plan.version}, threshold {plan.threshold:.4f}"
    if not as_json:
        output.print(said, markup=False)
    if found.counts.set_aside:
        notices.print(
            f"{plan.bad_rows}: {found.counts.set_aside:,} rows that cannot be scored, with the reason",
            markup=False,
        )
    return said


def _counted(counts: "Counts") -> str:
    aside = f", {counts.set_aside:,} set aside" if counts.set_aside else ""
    return f"{counts.scored:,} rows scored, {counts.frauds:,} called a fraud{aside}"


@contextmanager
def _bar(name: str) -> "Iterator[Tell]":
    """A progress bar; where nobody sees one, a line every tenth of the way."""
    columns = (
        TextColumn(escape(name)),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
    )
    said = 0
    with Progress(
        *columns, console=notices, transient=True, disable=not notices.is_terminal
    ) as bar:
        task = bar.add_task(name, total=None, rows=0)

        def tell(done: int, total: int, counts: "Counts") -> None:
            nonlocal said
            bar.update(task, completed=done, total=total, rows=counts.scored)
            if not notices.is_terminal and total and done * 10 // total > said:
                said = done * 10 // total
                notices.print(f"{said * 10} %, {_counted(counts)}", markup=False)

        yield tell


if __name__ == "__main__":
    run(command)
