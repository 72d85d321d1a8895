"""`fraudops score`: score a file of transactions. Batch scores are not audited."""

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from fraudops.errors import RefusedError, SettingsError
from fraudops.settings import BundleJobSettings
from fraudops.state import State
from jobs.on_cluster import on_cluster
from jobs.reports.progress import RowsBar, rows_bar
from jobs.runner import json_option, notices, output, print_json, run, state_option

if TYPE_CHECKING:
    from fraudops.batch.plan import Counts, Layout, Summary

INDEX = "JOB_COMPLETION_INDEX"
SHARD = re.compile(r"(\d{1,6})/(\d{1,6})")
HELP = """Score the rows of FILE (CSV, also gzipped, or Parquet) with the current model.

The output keeps FILE's order. It has FILE's transaction_id and entity_key if FILE has them, the
columns that --keep names, and fraud_probability, prediction, model_version and threshold. The
output gets its name only when it is complete. OUT.json next to it describes the run.

If the run is killed, repeat the same command: it continues where it ended, with the same model
version, and produces the same bytes. Its pieces are in OUT.parts.

Batch scores are not decisions: they are not audited, and monitor and drift do not see them.
"""


def _to_shard(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int, int] | None:
    if value is None:
        return None
    match = SHARD.fullmatch(value)
    if not match or not int(match[1]) < int(match[2]):
        raise click.BadParameter("write it as I/N with I from 0 to N-1, such as 0/4")
    return int(match[1]), int(match[2])


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
    help="The output; ends in .csv or .parquet. [default: next to FILE, with .scores before the "
    "suffix]",
)
@click.option(
    "--version",
    metavar="N",
    help="Score with this version instead of the current one; `latest` is the newest.",
)
@click.option(
    "--keep",
    multiple=True,
    metavar="COLUMN",
    help="A column to copy to the output (repeatable). From a CSV, a column that is no feature is "
    "copied as text.",
)
@click.option(
    "--bad-rows",
    type=click.Path(path_type=Path),
    metavar="CSV",
    help="Write rows that cannot be scored to this file, with the reason. [default: refuse FILE]",
)
@click.option(
    "--shard",
    callback=_to_shard,
    metavar="I/N",
    help="Score shard I of N (from 0) into OUT.part-I-of-N. The last shard to end joins them.",
)
@click.option(
    "--shards",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help=f"The same in an Indexed Job, where {INDEX} is I.",
)
@click.option("--merge", is_flag=True, help="Only join the shards of OUT; all must exist.")
@click.option(
    "--chunk-rows",
    type=click.IntRange(1, 10_000_000),
    default=65_536,
    show_default=True,
    help="Number of rows in memory at a time.",
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
        raise SettingsError("FILE is missing: name a CSV or Parquet file of transactions")
    if shard and shards:
        raise SettingsError("give --shard or --shards, not both")
    index, count = shard or _indexed(shards)
    _check_distinct(file, target, bad_rows)
    order = Order(
        source=file,
        out=target,
        version=version,
        keep=keep,
        bad_rows=bad_rows,
        shard=index,
        shards=count,
        chunk_rows=chunk_rows,
    )
    models = BatchModels(BundleJobSettings.from_environment(), state)
    with rows_bar(f"shard {index} of {count}" if count > 1 else file.name) as bar:
        found = score_file(order, models, partial(_show_progress, bar))
    if isinstance(found, Summary):
        return _show(found, layout, as_json)
    # Only the last shard to end returns a Summary; the others return their counts.
    if as_json:
        print_json({"shard": index, "shards": count, **msgspec.to_builtins(found)})
    message = (
        f"shard {index} of {count} is complete: {_counted(found)}; the last shard to end joins them"
    )
    notices.print(message, markup=False)
    return message


def _target(file: Path | None, out: Path | None) -> Path:
    """Return the output file. Raises SettingsError without --out and FILE."""
    if out is not None:
        return out
    if file is None:
        raise SettingsError("the output is missing: name it with --out")
    name = file.name.removesuffix(".gz")
    suffix = ".parquet" if name.endswith(".parquet") else ".csv"
    stem = name.removesuffix(file.suffix).removesuffix(".csv")
    return file.with_name(f"{stem}.scores{suffix}")


def _indexed(shards: int | None) -> tuple[int, int]:
    """Return the shard and the number of shards. Raises SettingsError outside an Indexed Job."""
    if shards is None:
        return 0, 1
    index = os.environ.get(INDEX, "")
    if not index.isdigit():
        raise SettingsError(
            f"--shards works only in an Indexed Job ({INDEX} is not set); here run "
            f"--shard 0/{shards} to --shard {shards - 1}/{shards}"
        )
    if int(index) >= shards:
        raise SettingsError(
            f"{INDEX} is {index}, but --shards is {shards}: set the Job's completions to {shards}"
        )
    return int(index), shards


def _check_distinct(file: Path, out: Path, bad_rows: Path | None) -> None:
    paths = [path.absolute() for path in (file, out, *([bad_rows] if bad_rows else []))]
    if len(set(paths)) < len(paths):
        raise SettingsError("FILE, --out and --bad-rows must be different files")
    if bad_rows and bad_rows.suffix != ".csv":
        raise SettingsError(f"{bad_rows}: bad rows are written as CSV; use a name in .csv")


def _merge(layout: "Layout") -> "Summary":
    """Join the shards. Raises RefusedError while some are missing, SettingsError without a run."""
    from fraudops.batch.joining import join, missing_shards
    from fraudops.batch.plan import BatchPlan, load

    # Read before the join, which removes the plan.
    plan = load(layout.plan, BatchPlan)
    summary = join(layout)
    if summary is not None:
        return summary
    if plan is None:
        raise SettingsError(
            f"{layout.out}: there is no run to join; first score its shards with --shard I/N"
        )
    missing = ", ".join(map(str, missing_shards(layout, plan)))
    raise RefusedError(
        f"{layout.out}: of {plan.shards} shards these are not complete: {missing}; score each "
        f"with --shard I/{plan.shards}"
    )


def _show(found: "Summary", layout: "Layout", as_json: bool) -> str:
    """Print a complete run and return it as one line."""
    plan = found.plan
    if as_json:
        print_json(
            {
                "out": str(layout.out),
                **msgspec.to_builtins(plan),
                **msgspec.to_builtins(found.counts),
            }
        )
    message = (
        f"{layout.out}: {_counted(found.counts)}, version {plan.version}, "
        f"threshold {plan.threshold:.4f}"
    )
    if not as_json:
        output.print(message, markup=False)
    if found.counts.set_aside:
        notices.print(
            f"{plan.bad_rows}: {found.counts.set_aside:,} rows that cannot be scored, with the "
            "reason",
            markup=False,
        )
    return message


def _counted(counts: "Counts") -> str:
    bad = f", {counts.set_aside:,} bad rows" if counts.set_aside else ""
    return f"{counts.scored:,} rows scored, {counts.frauds:,} flagged as fraud{bad}"


def _show_progress(bar: RowsBar, done: int, total: int, counts: "Counts") -> None:
    bar.update(done, total, counts.scored, _counted(counts))


if __name__ == "__main__":
    run(command)
