"""`python -m benchmarks.starts`: the start of a pod that has its bundle in the cache.

The previous release starts in turn with this one, from its own files in the history.
"""

import http.client
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from benchmarks import results
from benchmarks.commands import BenchmarkPlan, conclude, quick_option, results_option, say, site
from benchmarks.models import KINDS, ROOT
from benchmarks.processes import SubjectError, bare_environment, free_port, running, wait_until
from benchmarks.product import ADMIN_TOKEN, lay_out
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, ratio, spread
from benchmarks.subjects import BenchmarkSite
from benchmarks.turns import order
from fraudops.state import State
from tests.support.releases import commits, unpack

ROUNDS = 30
WORKERS = "2"
LOOK_SECONDS = 0.004
LONGER_SECONDS = 0.05


class Program(msgspec.Struct, frozen=True):
    """A release of the service. `folder` has its files."""

    name: str
    folder: Path


@click.command()
@click.option(
    "--rounds",
    "number",
    default=ROUNDS,
    show_default=True,
    help="Starts of each release and model.",
)
@results_option
@quick_option
def command(number: int, results: Path | None, quick: bool) -> None:
    """Measure the seconds from the start of the service until it is ready."""
    with site(with_database=False) as place:
        result = measure(place, BenchmarkPlan.of(number, 0, None, quick))
    conclude(result, results)


def measure(place: BenchmarkSite, plan: BenchmarkPlan) -> Result:
    """Measure both releases with each model. Needs the history of the repository."""
    version = next(iter(commits()))
    before = Program(f"release {version}", unpack(version, place.fresh("release")))
    now = Program("this release", ROOT)
    title = "The start of a pod with a cached bundle"
    result = results.begin("starts", title, plan, workers=WORKERS, models=", ".join(KINDS))
    # No load is generated.
    del result.settings["seconds"], result.settings["load generator"]
    taken = {kind: _rounds(place, kind, (before, now), plan.rounds) for kind in KINDS}
    for kind, seconds in taken.items():
        pairs = zip(seconds[now.name], seconds[before.name], strict=True)
        longer = spread([one - other for one, other in pairs])
        text = f"{kind}: a start takes at most 0.05 s longer than that of {before.name} (s)"
        result.claims.append(Claim(text, longer, LONGER_SECONDS, "at most"))
    rows = [
        (f"{kind}, {name}", str(spread(values)), str(ratio(values, seconds[before.name])))
        for kind, seconds in taken.items()
        for name, values in seconds.items()
    ]
    result.tables = [
        Table("From the start until ready", ("", "seconds", f"ratio to {before.name}"), rows)
    ]
    result.notes = [
        "Each round starts both releases once, in turn. A warm-up start of each is not counted. "
        "The earlier release verifies no signature. Both run with the libraries of this release."
    ]
    result.details = taken
    return result


def _rounds(
    place: BenchmarkSite, kind: str, programs: Sequence[Program], number: int
) -> dict[str, list[float]]:
    """Return the seconds of each round, by the name of the program."""
    states = {
        program.name: lay_out(place.fresh("start"), place.models, kind) for program in programs
    }
    seconds: dict[str, list[float]] = {program.name: [] for program in programs}
    for program in programs:
        start(program, states[program.name])
    for number_of_round in range(number):
        for program in order(programs, number_of_round):
            seconds[program.name].append(start(program, states[program.name]))
    for name, values in seconds.items():
        say(f"{kind}, {name}: {spread(values)} s")
    return seconds


def start(program: Program, state: State) -> float:
    """Start the service and stop it again. Return the seconds until it was ready.

    Raises SubjectError if it ends or does not become ready.
    """
    port, log = free_port(), state.root / "service.log"
    settings = {
        "FRAUDOPS_STATE": str(state.root),
        "FRAUDOPS_PORT": str(port),
        "FRAUDOPS_WORKERS": WORKERS,
        "FRAUDOPS_POD": "pod",
        "FRAUDOPS_ADMIN_TOKEN": ADMIN_TOKEN,
    }
    # The current folder comes first in the path of `-m`, so each release runs its own files.
    command = [sys.executable, "-m", "services.inference"]
    began = time.perf_counter()
    with running(command, bare_environment(**settings), program.folder, log) as process:
        wait_until(
            lambda: process.poll() is not None or _is_ready(port),
            f"{program.name} is not ready (log: {log})",
            pause=LOOK_SECONDS,
        )
        seconds = time.perf_counter() - began
        if process.poll() is not None:
            raise SubjectError(f"{program.name} ended: {log.read_text()[-1500:]}")
    return seconds


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    command()
