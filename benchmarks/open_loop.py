"""Requests at a fixed rate, from the bundled client in another process.

A sample of the answers is checked.
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
    """Yield the windows as they arrive; the last one is of the whole run.

    Raises SubjectError if the client fails.
    """
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
    """Load a URL and return the window of the whole run.

    Raises SubjectError if any request was not answered with 200.
    """
    with driving(url, bodies, rate, seconds) as windows:
        *_, whole = windows
    if whole.refused or whole.broken or not whole.answered:
        raise SubjectError(
            f"{whole.answered} answers, {whole.refused} refused, {whole.broken} broken,"
            f" {whole.unsent} not sent"
        )
    return whole


def check(window: LoadWindow, protocol: Protocol, expected: NDArray[np.float64]) -> int:
    """Compare the sampled answers with the probability of their row, and return their number.

    Raises SubjectError for a wrong answer.
    """
    for index, answer in window.samples:
        try:
            difference = protocol.difference(answer.encode(), expected[index : index + 1])
        except WrongAnswerError as error:
            raise SubjectError(f"row {index}: {error}") from error
        if difference > TOLERANCE:
            raise SubjectError(
                f"the answer for row {index} differs by {difference:.2g} from its pipeline"
            )
    return len(window.samples)
