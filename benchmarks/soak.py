"""`python -m benchmarks.soak --minutes 30`: half of the maximum for a long time.

Everything is on. It measures memory and tail latency, and finds every answer in PostgreSQL.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import click
import msgspec
import psycopg

from benchmarks import drawing, latency, open_loop, results
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
from benchmarks.product import Product
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, short, spread
from benchmarks.subjects import BenchmarkSite, Running, Subject, audit_defaults, ours

WINDOW_SECONDS, QUICK_WINDOW_SECONDS, QUICK_MINUTES = 10.0, 3.0, 0.25
MAXIMUM_SECONDS = 5.0
BYTES_A_ROW = 3000
DRAIN_SECONDS = 3600.0


class Memory(msgspec.Struct, frozen=True):
    """Resident bytes of each worker by pid, and of the spool's files.

    `second` counts from the start of the load.
    """

    second: float
    workers: dict[int, int]
    spool: int


class Soak(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a soak: the client's windows, each with the memory after it.

    `lost` counts answers that PostgreSQL does not have, `unasked` rows without a counted answer.
    """

    rate: float
    windows: list[LoadWindow]
    memory: list[Memory]
    whole: LoadWindow
    lost: int
    unasked: int


@click.command()
@click.option("--minutes", default=30.0, show_default=True, help="Minutes of load.")
@click.option(
    "--share",
    default=0.5,
    show_default=True,
    help="Share of the product's maximum, which is measured first.",
)
@click.option("--rate", type=float, help="Requests per second, instead of a share of the maximum.")
@click.option("--workers", default=1, show_default=True, help="Workers of the service.")
@generator_option
@results_option
@quick_option
def command(
    minutes: float,
    share: float,
    rate: float | None,
    workers: int,
    generator: str | None,
    results: Path | None,
    quick: bool,
) -> None:
    """Measure half load over a long time."""
    plan = replace(
        BenchmarkPlan.of(1, 0.0, generator, quick),
        seconds=(QUICK_MINUTES if quick else minutes) * 60,
    )
    with site() as place:
        result = measure(place, plan, share, rate, workers)
    conclude(result, results, draw)


def measure(
    place: BenchmarkSite, plan: BenchmarkPlan, share: float, rate: float | None, workers: int
) -> Result:
    subject = ours("ours", "fraudops", workers)
    result = results.begin(
        "soak", "Half load for a long time", plan, workers=workers, audit=audit_defaults()
    )
    rate = rate or share * latency.maximum(subject, place, plan.generator, MAXIMUM_SECONDS)
    _refuse_without_room(place, rate, plan.seconds)
    say(f"{rate:,.0f} requests per second for {plan.seconds / 60:g} minutes")
    with subject.start(place) as running:
        soak = _soaked(place, subject, running, rate, plan)
    result.claims, result.tables, result.details = claims(soak), [_table(soak)], soak
    result.notes = [
        f"{soak.whole.answered:,} answers at {rate:,.0f} per second,"
        f" {soak.whole.refused} refused, {soak.whole.broken} broken."
        f" PostgreSQL lacks {soak.lost} of them and has {soak.unasked} more rows"
        " (of checks, and of requests in flight at the end)."
    ]
    return result


def _soaked(
    place: BenchmarkSite, subject: Subject, running: Running, rate: float, plan: BenchmarkPlan
) -> Soak:
    if running.product is None or place.database is None:
        raise SubjectError("a soak needs a subject that ships to PostgreSQL")
    ids = place.folder / "ids"
    window = QUICK_WINDOW_SECONDS if plan.quick else WINDOW_SECONDS
    windows, memory = _load(
        running.url,
        place.bodies(subject.protocol),
        running.product,
        rate,
        plan.seconds,
        window,
        ids,
    )
    running.product.drain(DRAIN_SECONDS)
    lost, unasked = compare(place.database, running.product.pod, ids)
    open_loop.check(windows[-1], subject.protocol, place.models.expected[subject.kind])
    whole = msgspec.structs.replace(windows[-1], samples=[])
    return Soak(
        rate=rate, windows=windows[:-1], memory=memory, whole=whole, lost=lost, unasked=unasked
    )


def _refuse_without_room(place: BenchmarkSite, rate: float, seconds: float) -> None:
    needed, free = int(rate * seconds * BYTES_A_ROW), shutil.disk_usage(place.folder).free
    if needed > free:
        raise click.UsageError(
            f"the rows need about {needed >> 30} GiB, but {free >> 30} GiB are free:"
            " use fewer --minutes, a lower --rate, or another TMPDIR"
        )


def _load(
    url: str, bodies: Path, product: Product, rate: float, seconds: float, window: float, ids: Path
) -> tuple[list[LoadWindow], list[Memory]]:
    """Return the client's windows, the whole run's last, and the memory after each."""
    memory, windows, started = [], [], time.monotonic()
    with open_loop.driving(url, bodies, rate, seconds, window, ids) as arriving:
        for arrived in arriving:
            windows.append(arrived)
            sizes = {worker.pid: worker.memory_info().rss for worker in product.workers()}
            memory.append(
                Memory(
                    time.monotonic() - started,
                    sizes,
                    sum(path.stat().st_size for path in product.state.spool.glob("*.seg")),
                )
            )
            resident = ", ".join(f"{size / 2**20:.1f}" for size in sizes.values())
            say(f"{memory[-1].second:6.0f} s: p99 {arrived.p99_ms:.2f} ms, {resident} MiB")
    return windows, memory[:-1]


def compare(url: str, pod: str, ids: Path) -> tuple[int, int]:
    """Return the ids of the file that PostgreSQL lacks, and the pod's rows beyond the file."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TEMP TABLE answered (id uuid)")
        with connection.cursor().copy("COPY answered FROM STDIN") as copy, ids.open("rb") as file:
            while part := file.read(1 << 20):
                copy.write(part)
        lost = connection.execute(
            "SELECT count(*) FROM answered a"
            " WHERE NOT EXISTS (SELECT FROM predictions p WHERE p.id = a.id)"
        ).fetchone()
        rows = connection.execute(
            "SELECT count(*) FROM predictions WHERE pod = %s", [pod]
        ).fetchone()
        known = connection.execute("SELECT count(*) FROM answered").fetchone()
    if not (lost and rows and known):
        raise SubjectError("PostgreSQL returned no count")
    return int(lost[0]), int(rows[0]) - int(known[0]) + int(lost[0])


def claims(soak: Soak) -> list[Claim]:
    """Return the growth of memory and p99, and the lost and refused requests.

    Growth is from the second sixth of the run to the last; the first sixth is warm-up.
    """
    memory = [
        [memory.workers[pid] for memory in soak.memory if pid in memory.workers]
        for pid in soak.memory[-1].workers
    ]
    tails = [window.p99_ms for window in soak.windows]
    return [
        Claim(
            "memory of the worker that grew most, end against start",
            spread([max(growth(sizes) for sizes in memory)]),
            1.05,
            "at most",
        ),
        Claim("p99, end against start", spread([growth(tails)]), 1.2, "at most"),
        Claim("answers lost", spread([float(soak.lost)]), 0.0, "at most"),
        Claim(
            "requests refused or broken",
            spread([float(soak.whole.refused + soak.whole.broken)]),
            0.0,
            "at most",
        ),
    ]


def growth(values: Sequence[float]) -> float:
    """Return the median of the last sixth divided by that of the second sixth.

    With few values, the last value divided by the first.
    """
    sixth = len(values) // 6
    return (
        median(values[-sixth:]) / median(values[sixth : 2 * sixth])
        if sixth
        else values[-1] / values[0]
    )


def _table(soak: Soak) -> Table:
    rows: list[tuple[str, ...]] = []
    for index in sorted({round(step * (len(soak.windows) - 1) / 9) for step in range(10)}):
        window, memory = soak.windows[index], soak.memory[index]
        sizes = ", ".join(f"{size / 2**20:.1f}" for size in memory.workers.values())
        rows.append(
            (
                f"{memory.second / 60:.1f}",
                short(window.p50_ms),
                short(window.p99_ms),
                sizes,
                f"{memory.spool / 2**20:.0f}",
            )
        )
    return Table(
        "Over time",
        ("minute", "p50 ms", "p99 ms", "MiB of each worker", "MiB in the spool"),
        rows,
    )


def draw(result: Result, path: Path) -> None:
    soak: Soak = result.details
    drawn, (memory, tail) = drawing.figure(1, 2, height=3.4)
    minutes = [point.second / 60 for point in soak.memory]
    pids = list(soak.memory[-1].workers)
    sizes = {
        f"worker {number}": [point.workers.get(pid, 0) / 2**20 for point in soak.memory]
        for number, pid in enumerate(pids, 1)
    }
    drawing.lines(memory, minutes, sizes, "minutes", "resident MiB of each worker")
    windows = {
        name: [getattr(window, f"{name}_ms") for window in soak.windows] for name in ("p50", "p99")
    }
    drawing.lines(
        tail,
        minutes[: len(soak.windows)],
        {name: values[: len(minutes)] for name, values in windows.items()},
        "minutes",
        "milliseconds",
        log="y",
    )
    drawing.save(
        drawn,
        path,
        f"{soak.rate:,.0f} requests per second, commit {result.commit[:12]}, {result.at[:10]}",
    )


if __name__ == "__main__":
    command()
