"""Requests at a given rate, whatever the answers do: the bundled client as a program of its own,
its sampled answers checked.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.client import LoadWindow
from benchmarks.models import ROOT
from benchmarks.processes import SubjectError
from benchmarks.protocols import Protocol, WrongAnswerError
from benchmarks.subjects import TOLERANCE

CONNECTIONS = 64
GRACE_SECONDS = 60.0


@contextmanager
def driving(
    url: str,
    bodies: Path,
    rate: float,
    seconds: float,
    window: float | None = None,
    ids: Path | None = None,
) -> Iterator[Iterator[LoadWindow]]:
    """The windows as they come, the whole run's last."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.client",
        url,
        str(bodies),
        "--rate",
        str(rate),
        "--seconds",
        str(seconds),
        "--connections",
        str(CONNECTIONS),
    ]
    command += ["--window", str(window)] if window else []
    command += ["--ids", str(ids)] if ids else []
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        if process.stdout is None:
            raise SubjectError("the client has no output")
        yield (msgspec.json.decode(line, type=LoadWindow) for line in process.stdout)
        if process.wait(GRACE_SECONDS) != 0:
            raise SubjectError(f"the client ended with exit code {process.returncode}")
    finally:
        process.kill()
        process.wait()


def drive(url: str, bodies: Path, rate: float, seconds: float) -> LoadWindow:
    """Raises SubjectError for any request that was not answered with 200."""
    with driving(url, bodies, rate, seconds) as windows:
        *_, whole = windows
    if whole.refused or whole.broken or not whole.answered:
        raise SubjectError(
            f"{whole.answered} answers, {whole.refused} refused, {whole.broken} broken, {whole.unsent} not sent"
        )
    return whole


def check(window: LoadWindow, protocol: Protocol, expected: NDArray[np.float64]) -> int:
    """How many sampled answers were held against the probability of their row.

    Raises SubjectError for a wrong one.
    """
    for index, answer in window.samples:
        try:
            difference = protocol.difference(answer.encode(), expected[index : index + 1])
        except WrongAnswerError as error:
            raise SubjectError(f"row {index}: {error}") from error
        if difference > TOLERANCE:
            raise SubjectError(f"row {index} is {difference:.2g} away from what its pipeline says")
    return len(window.samples)
