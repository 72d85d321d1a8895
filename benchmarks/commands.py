"""Shared parts of the commands: options, the working folder, and output of results."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.markdown import Markdown

from benchmarks import models, results
from benchmarks.generators import GENERATORS, Generator, choose
from benchmarks.product import database
from benchmarks.results import RESULTS, Result
from benchmarks.subjects import BenchmarkSite

console = Console(stderr=True, highlight=False, soft_wrap=True)

quick_option = click.option(
    "--quick",
    is_flag=True,
    help="One short round. It checks the answers; its figures mean nothing.",
)
results_option = click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the results [default: benchmarks/results; none for a quick run].",
)
generator_option = click.option(
    "--generator",
    type=click.Choice(list(GENERATORS)),
    help="Load generator [default: the first of these that is installed].",
)


@dataclass(frozen=True)
class BenchmarkPlan:
    """The seconds of load per turn, the number of rounds, and the load generator."""

    rounds: int
    seconds: float
    generator: Generator
    quick: bool

    @classmethod
    def of(cls, rounds: int, seconds: float, generator: str | None, quick: bool) -> "BenchmarkPlan":
        return (
            cls(1, 1.0, choose(generator), True)
            if quick
            else cls(rounds, seconds, choose(generator), False)
        )


def say(text: str) -> None:
    console.print(text, markup=False)


@contextmanager
def site(with_database: bool = True) -> Iterator[BenchmarkSite]:
    """A folder with the trained models and a PostgreSQL; both are removed at the end."""
    with tempfile.TemporaryDirectory(
        prefix="fraudops-bench-", ignore_cleanup_errors=True
    ) as folder:
        say("training the models that all subjects serve")
        place = BenchmarkSite(Path(folder), models.train(Path(folder) / "models"))
        if not with_database:
            yield place
            return
        with database(place.folder / "postgresql") as place.database:
            yield place


def conclude(
    result: Result, folder: Path | None, draw: Callable[[Result, Path], None] | None = None
) -> None:
    """Print the result, and write it with its picture.

    A quick run writes only into a folder that was given.
    """
    Console().print(Markdown(results.markdown(result)))
    folder = folder or (None if result.quick else RESULTS)
    if folder:
        stem = results.write(result, folder)
        if draw:
            draw(result, stem.with_suffix(".png"))
        say(f"written: {stem}.json, .md{', .png' if draw else ''}")
