"""`python -m benchmarks.reads`: the reads of `fraudops monitor` and `fraudops drift`.

They are timed by the rows in the table and in the window.
"""

import asyncio
import re
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import results
from benchmarks.audit_rows import DIGEST, AuditTables
from benchmarks.commands import BenchmarkPlan, conclude, quick_option, results_option, say
from benchmarks.product import database
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, Spread, ratio, short, spread
from fraudops.audit import sampling
from fraudops.audit.activity import Activity, activity, levels, statement
from fraudops.audit.database import create_engine
from fraudops.drift.window import recent, selection
from fraudops.settings import DriftSettings

DAY_ROWS, QUICK_DAY_ROWS, DAYS, QUICK_DAYS, PROJECTED = (
    1_000_000,
    150_000,
    (1, 3, 10),
    (1, 3),
    50_000_000,
)
MODEL = "credit-fraud"
WINDOWS = ("1 hour", "24 hours", "all")
READERS = ("monitor", "drift")


class Taken(msgspec.Struct, frozen=True):
    """The reads of one window of a table of `rows`: seconds of each round, by reader.

    `monitor` is the result of monitor, `compared` the number of rows that drift compares.
    """

    rows: int
    window: str
    seconds: dict[str, list[float]]
    monitor: Activity
    compared: int


class Scan(msgspec.Struct, frozen=True):
    """A scan of a plan, all days together: rows returned, number of loops, pages touched."""

    reader: str
    node: str
    index: str
    rows: int
    loops: int
    pages: int


@click.command()
@click.option("--rounds", "number", default=5, show_default=True, help="Reads of every window.")
@click.option(
    "--days",
    multiple=True,
    type=click.IntRange(1),
    help=f"Days of {DAY_ROWS:,} rows in the table. Repeat it for more sizes [default: {DAYS}].",
)
@results_option
@quick_option
def command(number: int, days: Sequence[int], results: Path | None, quick: bool) -> None:
    """Measure monitor and drift over a growing audit."""
    with (
        tempfile.TemporaryDirectory(prefix="fraudops-bench-", ignore_cleanup_errors=True) as folder,
        database(Path(folder) / "postgresql") as url,
    ):
        result = measure(
            url,
            BenchmarkPlan.of(number, 0.0, None, quick),
            sorted(set(days or (QUICK_DAYS if quick else DAYS))),
        )
    conclude(result, results)


def measure(url: str, plan: BenchmarkPlan, days: Sequence[int]) -> Result:
    result = results.begin("reads", "Reads of monitor and drift from a growing audit", plan)
    audit = AuditTables(url, QUICK_DAY_ROWS if plan.quick else DAY_ROWS)
    result.settings = {
        "rounds": plan.rounds,
        "rows a day": audit.day_rows,
        "read in full up to": sampling.EXACT_ROWS,
    }
    taken, sizes, scans = list[Taken](), list[tuple[str, ...]](), list[Scan]()
    for number in days:
        started = time.monotonic()
        audit.grow(number * audit.day_rows)
        say(f"{audit.rows:,} rows made in {time.monotonic() - started:.0f} s")
        sizes.append(_sizes(audit))
        reads, scans = asyncio.run(_read(url, audit, plan.rounds))
        taken += reads
    result.tables = [
        _seconds(taken),
        _estimates(taken),
        _scans(scans),
        Table("Disk", ("rows", "table and indexes", "sample index"), sizes),
    ]
    result.claims = [_claim(taken, reader, window) for reader in READERS for window in WINDOWS]
    result.notes = [_projected(taken, reader) for reader in READERS] + [
        f"A window of more than about {sampling.EXACT_ROWS:,} rows is estimated from a sample."
        " The plan covers all days of the largest table.",
        "The seconds are of the reads alone, with all pages in the page cache. The start of the"
        " command and the drift report come on top, and do not depend on the rows.",
    ]
    result.details = {"taken": taken, "scans": scans}
    return result


async def _read(url: str, audit: AuditTables, rounds: int) -> tuple[list[Taken], list[Scan]]:
    engine, reads = create_engine(url), list[Taken]()
    try:
        for name, length in zip(
            WINDOWS,
            (timedelta(hours=1), timedelta(hours=24), timedelta(days=audit.days)),
            strict=True,
        ):
            since, seconds, compared = (
                audit.until - length,
                {reader: list[float]() for reader in READERS},
                0,
            )
            # The first read is not counted: it loads the pages into the page cache.
            for _ in range(rounds + 1):
                started = time.perf_counter()
                report, _versions = await activity(engine, since, audit.until, MODEL)
                seconds["monitor"].append(time.perf_counter() - started)
                started = time.perf_counter()
                rows = await recent(
                    engine,
                    since,
                    audit.until,
                    DriftSettings().maximum_rows,
                    audit.names,
                    model_digest=DIGEST,
                )
                seconds["drift"].append(time.perf_counter() - started)
                compared = len(rows.id)
            reads.append(
                Taken(
                    audit.rows,
                    name,
                    {reader: values[1:] for reader, values in seconds.items()},
                    report,
                    compared,
                )
            )
            say(
                f"{audit.rows:,} rows, {name}: "
                + ", ".join(f"{reader} {spread(reads[-1].seconds[reader])} s" for reader in READERS)
            )
        return reads, await _plans(engine, audit.until - timedelta(days=audit.days), audit.until)
    finally:
        await engine.dispose()


async def _plans(engine: AsyncEngine, since: datetime, until: datetime) -> list[Scan]:
    """Return the scans of the plans for the longest window, by EXPLAIN (ANALYZE, BUFFERS)."""
    scans = list[Scan]()
    async with engine.connect() as connection:
        for reader, query in (
            ("monitor", sampling.query_parameters(since, until, MODEL)),
            ("drift", sampling.query_parameters(since, until, None, DIGEST)),
        ):
            window = await sampling.estimate_window(connection, query)
            level = (
                0
                if window.small
                else window.all.level(DriftSettings().maximum_rows, sampling.INDEXED_LEVEL)
            )
            chosen, values = (
                statement(query, *await levels(connection, query))
                if reader == "monitor"
                else selection(query, level)
            )
            plan = await connection.scalar(
                text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {chosen.text}"), values
            )
            scans += _walk(
                reader,
                (msgspec.json.decode(plan) if isinstance(plan, str) else plan)[0]["Plan"],
            )
    return scans


def _walk(reader: str, plan: dict[str, Any]) -> list[Scan]:
    """Return the scans below a node; scans of the same kind are added up."""
    below, sums_by_scan = [plan], dict[tuple[str, str], list[int]]()
    while below:
        node = below.pop()
        below += node.get("Plans", [])
        name = node.get("Index Name") or node.get("Relation Name")
        if name and node["Actual Loops"]:
            sums = sums_by_scan.setdefault(
                (node["Node Type"], re.sub(r"_[0-9]{8}", "", name)), [0, 0, 0]
            )
            for place, value in enumerate(
                (round(node["Actual Rows"] * node["Actual Loops"]), node["Actual Loops"])
            ):
                sums[place] += value
            sums[2] += node["Shared Hit Blocks"] + node["Shared Read Blocks"]
    return [Scan(reader, node, name, *sums) for (node, name), sums in sorted(sums_by_scan.items())]


def _of(taken: list[Taken], window: str) -> list[Taken]:
    return [one for one in taken if one.window == window]


def _claim(taken: list[Taken], reader: str, window: str) -> Claim:
    smallest, *_, largest = _of(taken, window)
    last = "the last " if window != "all" else ""
    text = (
        f"{reader} of {last}{window} takes at most twice as long"
        f" in {largest.rows:,} rows as in {smallest.rows:,}"
    )
    return Claim(text, ratio(largest.seconds[reader], smallest.seconds[reader]), 2.0, "at most")


def _projected(taken: list[Taken], reader: str) -> str:
    """Project the time to PROJECTED rows by a straight line through the medians."""
    reads = _of(taken, "all")
    medians = [spread(one.seconds[reader]).median for one in reads]
    slope, intercept = np.polyfit([one.rows for one in reads], medians, 1)
    projected = max(intercept + slope * PROJECTED, 0.0)
    times = short(float(projected / medians[0]))
    return (
        f"{reader} of all rows, projected to {PROJECTED:,}: {short(float(projected))} s,"
        f" {times} times that of {reads[0].rows:,}."
    )


def _seconds(taken: list[Taken]) -> Table:
    def cell(one: Taken, reader: str) -> Spread:
        return spread(one.seconds[reader])

    rows = [
        (f"{one.rows:,}", one.window, *(str(cell(one, reader)) for reader in READERS))
        for one in taken
    ]
    return Table("Seconds", ("rows in the table", "window", *READERS), rows)


def _estimates(taken: list[Taken]) -> Table:
    rows = []
    for one in taken:
        report, margins = one.monitor, one.monitor.margins()
        ratios = (
            f"{getattr(report, name) or 0:.2%} ± {margins[name]:.2%}"
            for name in ("precision", "recall")
        )
        counts = (
            f"{getattr(report, name):,} ± {margins[name]:,.0f}"
            for name in ("answers", "decisions", "frauds")
        )
        rows.append(
            (f"{one.rows:,}", one.window, f"{report.read:,}", *counts, *ratios, f"{one.compared:,}")
        )
    return Table(
        "Results of the reads",
        (
            "rows",
            "window",
            "read by monitor",
            "answers",
            "decisions",
            "frauds",
            "precision",
            "recall",
            "compared by drift",
        ),
        rows,
    )


def _scans(scans: list[Scan]) -> Table:
    rows = [
        (
            f"{scan.reader}: {scan.node}",
            scan.index,
            f"{scan.rows:,}",
            f"{scan.loops:,}",
            f"{scan.pages:,}",
        )
        for scan in scans
    ]
    return Table(
        "Plan of the longest window, the largest table",
        ("scan", "of", "rows", "loops", "pages"),
        rows,
    )


def _sizes(audit: AuditTables) -> tuple[str, ...]:
    partitions = "FROM pg_inherits WHERE inhparent"
    total = audit.value(
        "SELECT CAST(sum(pg_total_relation_size(inhrelid)) AS bigint)"
        f" {partitions} = 'predictions'::regclass"
    )
    index = audit.value(
        "SELECT CAST(sum(pg_relation_size(inhrelid)) AS bigint)"
        f" {partitions} = 'predictions_sample'::regclass"
    )
    return f"{audit.rows:,}", f"{total / 1e9:.2f} GB", f"{index / 1e6:.1f} MB"


if __name__ == "__main__":
    command()
