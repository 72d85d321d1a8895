"""`python -m benchmarks.parts`: the cost of each step of an answer, in process.

The steps are timed for one row and for a row of a batch, next to common alternatives.
"""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import click

from benchmarks import models, results
from benchmarks.commands import BenchmarkPlan, conclude, quick_option, results_option, site
from benchmarks.product import lay_out
from benchmarks.results import Result, Table
from benchmarks.spread import Spread, spread
from benchmarks.steps import VARIED, Step, alternatives, application, steps
from benchmarks.subjects import BenchmarkSite
from fraudops.state import State

REPEATS = 9
REPEAT_SECONDS = 0.1


@click.command()
@click.option(
    "--rounds", "number", default=REPEATS, show_default=True, help="Series of calls per step."
)
@results_option
@quick_option
def command(number: int, results: Path | None, quick: bool) -> None:
    """Measure the microseconds of each step."""
    with site(with_database=False) as place:
        result = measure(place, BenchmarkPlan.of(number, REPEAT_SECONDS, None, quick))
    conclude(result, results)


def measure(place: BenchmarkSite, plan: BenchmarkPlan) -> Result:
    result = results.begin("parts", "What an answer costs, step by step", plan)
    trained, repeats = place.models, plan.rounds
    state = lay_out(place.fresh("parts"), trained, "linear")
    # Set before the modules that read them at import, as the service does. The process that
    # verifies the bundle reads FRAUDOPS_STATE.
    os.environ.update(
        FRAUDOPS_STATE=str(state.root),
        OPENBLAS_NUM_THREADS="1",
        PROMETHEUS_MULTIPROC_DIR=str(state.metrics),
    )
    whole = asyncio.run(_whole(trained, state, repeats))
    made = steps(trained, state)
    one = {name: microseconds(step, repeats) for name, step in made.named.items()}
    batch = {
        name: _each(microseconds(step, repeats, calls=3), made.rows)
        for name, step in made.batch.items()
    }
    made.close()
    others = {name: microseconds(step, repeats) for name, step in alternatives(trained).items()}
    result.tables = [
        _table(
            "One answer",
            "step",
            {
                **one,
                "the whole request, from the bytes of the socket to those of the answer": whole,
            },
        ),
        _table(f"One row of a body of {made.rows}", "step", batch),
        _table("Common alternatives", "step", others),
    ]
    result.notes = [
        "Microseconds, median and range of the series. Each includes a call of about 0.05."
    ]
    result.details = {"one": one, "batch": batch, "others": others, "whole": whole}
    return result


def microseconds(step: Step, repeats: int = REPEATS, calls: int | None = None) -> Spread:
    """Return the microseconds of one call, from `repeats` series of calls.

    A series has `calls` calls, or as many as fit into REPEAT_SECONDS.
    """
    step(0)
    number = calls or max(1, int(REPEAT_SECONDS / max(1e-7, _seconds(step, 5) / 5)))
    return spread([_seconds(step, number) / number * 1e6 for _ in range(repeats)])


def _seconds(step: Callable[[int], object], number: int) -> float:
    started = time.perf_counter()
    for index in range(number):
        step(index % VARIED)
    return time.perf_counter() - started


async def _whole(trained: models.BenchmarkModels, state: State, repeats: int) -> Spread:
    """Measure a call of the whole application, from the server's side."""
    measured = []
    async with application(trained, state) as call:
        for _ in range(repeats + 1):
            started = time.perf_counter()
            for index in range(VARIED):
                await call(index)
            measured.append((time.perf_counter() - started) / VARIED * 1e6)
        if call.status != 200:
            raise RuntimeError(f"the application answers {call.status}")
    return spread(measured[1:])


def _each(whole: Spread, rows: int) -> Spread:
    return spread([value / rows for value in whole.values])


def _table(title: str, column: str, measured: dict[str, Spread]) -> Table:
    return Table(title, (column, "µs"), [(name, str(value)) for name, value in measured.items()])


if __name__ == "__main__":
    command()
