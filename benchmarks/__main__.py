"""`python -m benchmarks`: serving, latency, batch, growth and parts, in turn."""

from pathlib import Path

import click

from benchmarks import batch, growth, latency, parts, serving
from benchmarks.commands import (
    BenchmarkPlan,
    conclude,
    generator_option,
    quick_option,
    results_option,
    site,
)


@click.command()
@click.option(
    "--peers",
    is_flag=True,
    help="Also measure other model servers. The first run installs them from PyPI.",
)
@generator_option
@results_option
@quick_option
def command(peers: bool, generator: str | None, results: Path | None, quick: bool) -> None:
    """Measure every figure that the project claims, on this machine.

    With --quick, only check that everything can be measured.
    """

    def plan(rounds: int, seconds: float) -> BenchmarkPlan:
        return BenchmarkPlan.of(rounds, seconds, generator, quick)

    with site() as place:
        chosen = serving.subjects(peers, serving.QUICK if quick and not peers else ())
        conclude(serving.measure(place, plan(5, 6.0), chosen), results, serving.draw)
        conclude(latency.measure(place, plan(5, 15.0)), results, latency.draw)
        conclude(batch.measure(place, plan(3, 5.0)), results)
        if not quick:
            conclude(growth.measure(place, plan(3, 5.0)), results, growth.draw)
        conclude(parts.measure(place, plan(parts.REPEATS, parts.REPEAT_SECONDS)), results)


if __name__ == "__main__":
    command()
