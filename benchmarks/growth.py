"""`python -m benchmarks.growth`: throughput by workers and rows per body, latency by load."""

import os
from pathlib import Path

import click

from benchmarks import batch, drawing, latency, results
from benchmarks.client import LoadWindow
from benchmarks.commands import (
    BenchmarkPlan,
    conclude,
    generator_option,
    quick_option,
    results_option,
    say,
    site,
)
from benchmarks.processes import SubjectError
from benchmarks.protocols import TRANSACTIONS
from benchmarks.results import Result, Table
from benchmarks.spread import Spread, short, spread
from benchmarks.subjects import BenchmarkSite, Subject, audit_defaults, floors, ours
from benchmarks.turns import Turn, order, rounds, turn

ROWS = (1, 10, 100, 1000, 10_000)
SHARES = (0.1, 0.25, 0.5, 0.7, 0.8, 0.9)
CONNECTIONS = 16


@click.command()
@click.option("--rounds", "number", default=3, show_default=True, help="Number of rounds.")
@click.option(
    "--seconds", default=5.0, show_default=True, help="Seconds of load per point and round."
)
@generator_option
@results_option
@quick_option
def command(
    number: int, seconds: float, generator: str | None, results: Path | None, quick: bool
) -> None:
    """Measure throughput and latency as load and workers grow."""
    with site() as place:
        result = measure(place, BenchmarkPlan.of(number, seconds, generator, quick))
    conclude(result, results, draw)


def measure(place: BenchmarkSite, plan: BenchmarkPlan) -> Result:
    result = results.begin(
        "growth", "Throughput and latency by workers, rows and load", plan, audit=audit_defaults()
    )
    workers = (1, 2) if plan.quick else (1, 2, *range(4, 2 * len(os.sched_getaffinity(0)) + 1, 2))
    by_workers = _workers(place, plan, workers)
    by_rows = _rows(place, plan)
    by_load, top = _load(place, plan, SHARES[1:4:2] if plan.quick else SHARES)
    rates = {key: spread([taken.rate for taken in turns]) for key, turns in by_workers.items()}
    tails = {
        share: spread([window.p99_ms for window in windows]) for share, windows in by_load.items()
    }
    result.tables = _tables(workers, rates, by_rows, by_load, top)
    result.notes = [
        "One machine: load generator, shipper and PostgreSQL share its cores with the workers.",
        "Latencies are from an open loop with Poisson arrivals.",
    ]
    result.details = {
        "workers": {
            number: [rates[f"floor-{number}"], rates[f"ours-{number}"]] for number in workers
        },
        "rows": by_rows,
        "load": {
            share: [spread([window.p50_ms for window in windows]), tails[share]]
            for share, windows in by_load.items()
        },
        "maximum": top,
    }
    return result


def _workers(
    place: BenchmarkSite, plan: BenchmarkPlan, workers: tuple[int, ...]
) -> dict[str, list[Turn]]:
    subjects = [
        subject
        for count in workers
        for subject in (floors(count), ours(f"ours-{count}", f"fraudops, {count} workers", count))
    ]
    turns, _ = rounds(
        subjects,
        plan.rounds,
        lambda subject: turn(subject, place, plan.generator, CONNECTIONS, plan.seconds),
        say,
    )
    return turns


def _rows(place: BenchmarkSite, plan: BenchmarkPlan) -> dict[int, Spread]:
    """Measure rows per second by rows per body of /predict/batch, with one worker.

    Each point starts a new service.
    """
    measured: dict[int, list[float]] = {rows: [] for rows in ROWS}
    subject = ours("ours-1", "fraudops", 1)
    for number_of_round in range(plan.rounds):
        for rows in order(ROWS, number_of_round):
            bodies, connections = (
                place.bodies(TRANSACTIONS, rows),
                CONNECTIONS if rows < 1000 else batch.BATCH_CONNECTIONS,
            )
            with subject.start(place) as running:
                load = plan.generator.drive(
                    f"{running.url}/batch", bodies, connections, plan.seconds
                )
                if load.refused or load.broken:
                    raise SubjectError(f"{load.refused} refused, {load.broken} broken")
                if running.product:
                    running.product.drain()
            measured[rows].append(load.rate * rows)
            say(f"{rows:,} rows per body: {measured[rows][-1]:,.0f} rows per second")
    return {rows: spread(rates) for rows, rates in measured.items()}


def _load(
    place: BenchmarkSite, plan: BenchmarkPlan, shares: tuple[float, ...]
) -> tuple[dict[float, list[LoadWindow]], float]:
    """Return windows by share of the maximum, and the maximum, for one worker.

    The maximum is measured once.
    """
    subject: Subject = ours("ours-1", "fraudops", 1)
    top = latency.maximum(subject, place, plan.generator, plan.seconds)
    windows: dict[float, list[LoadWindow]] = {share: [] for share in shares}
    for number_of_round in range(plan.rounds):
        for share in order(shares, number_of_round):
            windows[share].append(latency.turn(subject, place, share * top, plan.seconds))
            say(f"{share:.0%} of {top:,.0f} per second: p99 {windows[share][-1].p99_ms:.3f} ms")
    return windows, top


def _tables(
    workers: tuple[int, ...],
    rates: dict[str, Spread],
    by_rows: dict[int, Spread],
    by_load: dict[float, list[LoadWindow]],
    top: float,
) -> list[Table]:
    load = [
        (
            f"{share:.0%}",
            f"{share * top:,.0f}",
            *(
                str(spread([getattr(window, name) for window in windows]))
                for name in ("p50_ms", "p99_ms")
            ),
        )
        for share, windows in by_load.items()
    ]
    return [
        Table(
            "Workers",
            ("workers", "floor", "fraudops"),
            [
                (str(count), str(rates[f"floor-{count}"]), str(rates[f"ours-{count}"]))
                for count in workers
            ],
        ),
        Table(
            "Rows per body",
            ("rows", "rows per second"),
            [(f"{rows:,}", str(rate)) for rows, rate in by_rows.items()],
        ),
        Table(
            "Load",
            ("share of the maximum", "requests per second", "p50 ms", "p99 ms"),
            [(*row,) for row in load],
        ),
    ]


def draw(result: Result, path: Path) -> None:
    details = result.details
    drawn, (workers, rows, load) = drawing.figure(1, 3, height=3.6)
    counts = list(details["workers"])
    by_name = {
        name: [details["workers"][count][index].median / 1000 for count in counts]
        for index, name in enumerate(("bare ASGI", "fraudops"))
    }
    drawing.lines(workers, counts, by_name, "workers", "thousand answers per second")
    rates = {"fraudops": [rate.median / 1000 for rate in details["rows"].values()]}
    drawing.lines(
        rows, list(details["rows"]), rates, "rows per body", "thousand rows per second", log="x"
    )
    tails = {
        name: [pair[index].median for pair in details["load"].values()]
        for index, name in enumerate(("p50", "p99"))
    }
    drawing.lines(
        load,
        [share * details["maximum"] for share in details["load"]],
        tails,
        "requests per second",
        "milliseconds",
        log="y",
    )
    drawing.save(
        drawn,
        path,
        f"{short(result.machine.cores)} cores, commit {result.commit[:12]}, {result.at[:10]}",
    )


if __name__ == "__main__":
    command()
