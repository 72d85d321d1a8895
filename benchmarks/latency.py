"""`python -m benchmarks.latency`: open-loop latency at half of the product's maximum.

The bare web server and the product get the same rate.
"""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import msgspec

from benchmarks import drawing, open_loop, results
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
from benchmarks.generators import Generator
from benchmarks.processes import SubjectError
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, Spread, ratio, spread
from benchmarks.subjects import BenchmarkSite, Running, Subject, durabilities, floors, ours
from benchmarks.turns import order

CONNECTIONS = 16
SETTLE_SECONDS, MAXIMUM_SECONDS = 1.0, 4.0
PROMOTED, PROMOTION_SECONDS = "ours-promoted-1", 3.0
Windows = dict[str, list[LoadWindow]]


@click.command()
@click.option(
    "--rounds",
    "number",
    default=5,
    show_default=True,
    help="Turns of every subject.",
)
@click.option(
    "--seconds", default=15.0, show_default=True, help="Seconds of load per subject and round."
)
@click.option(
    "--share",
    default=0.5,
    show_default=True,
    help="Share of the product's maximum. Each round measures the maximum first.",
)
@generator_option
@results_option
@quick_option
def command(
    number: int,
    seconds: float,
    share: float,
    generator: str | None,
    results: Path | None,
    quick: bool,
) -> None:
    """Measure latency at half load."""
    with site() as place:
        result = measure(place, BenchmarkPlan.of(number, seconds, generator, quick), share)
    conclude(result, results, draw)


def subjects() -> list[Subject]:
    """Return the floor and the product: `ours-1` with everything on, the others with less."""
    chosen = [
        floors(1),
        ours("ours-1", "fraudops, everything on", 1),
        ours("ours-alone-1", "fraudops, nothing shipped during the load", 1, ships=False),
    ]
    if "off" in durabilities():
        chosen.append(
            ours(
                "ours-off-1",
                "fraudops, audit off",
                1,
                {"FRAUDOPS_AUDIT__DURABILITY": "off"},
                ships=False,
            )
        )
    chosen.append(
        ours(PROMOTED, f"fraudops, everything on, a promotion every {PROMOTION_SECONDS:g} s", 1)
    )
    return chosen


def measure(place: BenchmarkSite, plan: BenchmarkPlan, share: float = 0.5) -> Result:
    chosen = subjects()
    result = results.begin(
        "latency",
        "Latency by an open loop",
        plan,
        share_of_maximum=share,
        connections=open_loop.CONNECTIONS,
    )
    windows: Windows = {subject.key: [] for subject in chosen}
    rates = []
    for number_of_round in range(plan.rounds):
        rates.append(
            share * maximum(chosen[1], place, plan.generator, min(MAXIMUM_SECONDS, plan.seconds))
        )
        say(
            f"round {number_of_round + 1}: {rates[-1]:,.0f} requests per second"
            f" are {share:.0%} of the product's maximum"
        )
        for subject in order(chosen, number_of_round):
            window = turn(subject, place, rates[-1], plan.seconds)
            windows[subject.key].append(window)
            say(f"  {subject.title}: p50 {window.p50_ms:.3f} ms, p99 {window.p99_ms:.3f} ms")
    result.tables = [_table(chosen, windows)]
    result.claims = claims(windows)
    sampled = sum(len(window.samples) for several in windows.values() for window in several)
    result.notes = [
        "Requests are due by a Poisson process. A latency counts from the moment at which its"
        " request was due. `late` is the client's own delay before it sent (p99).",
        f"Rates of the rounds: {', '.join(f'{rate:,.0f}' for rate in rates)} requests per second."
        " Every subject of a round got the same rate.",
        f"{sampled:,} answers were compared with the scikit-learn pipeline.",
    ]
    titles = {subject.key: (subject.title, subject.group) for subject in chosen}
    result.details = {
        "rates": rates,
        "titles": titles,
        "windows": {
            key: [_without_samples(window) for window in taken] for key, taken in windows.items()
        },
    }
    return result


def maximum(subject: Subject, place: BenchmarkSite, driver: Generator, seconds: float) -> float:
    """Return the answers per second that a closed loop can sustain.

    The time to ship the remaining rows after the load counts too.
    """
    bodies = place.bodies(subject.protocol)
    with subject.start(place) as running:
        driver.drive(running.url, bodies, CONNECTIONS, SETTLE_SECONDS)
        burst = driver.drive(running.url, bodies, CONNECTIONS, seconds).rate
        shipping = running.product.drain() if running.product and running.product.database else 0.0
        return burst * seconds / (seconds + shipping)


def turn(subject: Subject, place: BenchmarkSite, rate: float, seconds: float) -> LoadWindow:
    bodies = place.bodies(subject.protocol)
    with subject.start(place) as running:
        open_loop.drive(running.url, bodies, rate, SETTLE_SECONDS)
        with (
            promoting(running, min(PROMOTION_SECONDS, seconds / 3))
            if subject.key == PROMOTED
            else contextlib.nullcontext()
        ):
            window = open_loop.drive(running.url, bodies, rate, seconds)
    open_loop.check(window, subject.protocol, place.models.expected[subject.kind])
    return window


@contextlib.contextmanager
def promoting(running: Running, pause: float) -> Iterator[None]:
    """Prepare and promote a new version after each pause of the block.

    Raises SubjectError if a promotion fails, or if the block ends before the first one.
    """
    stopping = threading.Event()

    def promote() -> int:
        number = 1
        while not stopping.wait(pause) and running.product:
            number += 1
            running.product.promote_again(number)
        return number - 1

    with ThreadPoolExecutor(1) as threads:
        promotions = threads.submit(promote)
        try:
            yield
        finally:
            stopping.set()
        if not promotions.result():
            raise SubjectError("the load ended before the first promotion: use more --seconds")


def claims(windows: Windows) -> list[Claim]:
    tails = {key: [window.p99_ms for window in taken] for key, taken in windows.items()}
    made = [
        Claim(
            "p99 with everything on against the bare ASGI floor at the same rate",
            ratio(tails["ours-1"], tails["floor-1"]),
            3.0,
            "at most",
        )
    ]
    made.append(
        Claim(
            "p99 while new versions are promoted against p99 without",
            ratio(tails[PROMOTED], tails["ours-1"]),
            3.0,
            "at most",
        )
    )
    if "ours-off-1" in tails:
        made.append(
            Claim(
                "p99 with audit on against audit off",
                ratio(tails["ours-1"], tails["ours-off-1"]),
                1.3,
                "at most",
            )
        )
    return made


def _table(chosen: list[Subject], windows: Windows) -> Table:
    rows = [
        (
            subject.title,
            *(str(_of(windows[subject.key], field)) for field in ("p50_ms", "p99_ms", "late_ms")),
        )
        for subject in chosen
    ]
    return Table("Milliseconds to an answer", ("subject", "p50", "p99", "late"), rows)


def _of(windows: list[LoadWindow], field: str) -> Spread:
    return spread([getattr(window, field) for window in windows])


def _without_samples(window: LoadWindow) -> LoadWindow:
    return msgspec.structs.replace(window, samples=[])


def draw(result: Result, path: Path) -> None:
    titles, windows = result.details["titles"], result.details["windows"]
    drawn, axes = drawing.figure(1, 2, height=1.2 + 0.4 * len(titles))
    for place, field, label in zip(
        axes, ("p50_ms", "p99_ms"), ("p50, milliseconds", "p99, milliseconds"), strict=True
    ):
        drawing.bars(
            place,
            [title for title, _ in titles.values()],
            [_of(windows[key], field) for key in titles],
            [group for _, group in titles.values()],
            label,
        )
    axes[1].set_yticklabels([])
    drawing.save(
        drawn,
        path,
        f"open loop at {result.settings['share_of_maximum']:.0%} of the product's maximum,"
        f" {result.machine.cores} cores, commit {result.commit[:12]}",
    )


if __name__ == "__main__":
    command()
