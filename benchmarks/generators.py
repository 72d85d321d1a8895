"""The load generators: wrk or oha if installed, otherwise the client of this package.

All use kept-alive connections without pipelining, and varied bodies.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.client import LoadWindow
from benchmarks.models import ROOT
from benchmarks.processes import NO_HEADERS

GRACE_SECONDS = 60.0
Kind = TypeVar("Kind")


class GeneratorError(Exception):
    pass


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of a load: `answered` with 200, `refused` otherwise, `broken` without an answer."""

    answered: int
    refused: int
    broken: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.answered / self.seconds


@dataclass(frozen=True)
class Generator:
    name: str
    note: str
    command: Callable[[str, Path, int, float], list[str]]
    read: Callable[[str], Load]
    headers: Callable[[Mapping[str, str]], list[str]]

    def drive(
        self,
        url: str,
        bodies: Path,
        connections: int,
        seconds: float,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> Load:
        """Load a URL in a closed loop: each connection sends when it has its last answer.

        Each request has the `headers` too. Raises GeneratorError.
        """
        command = [*self.command(url, bodies, connections, seconds), *self.headers(headers)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds + GRACE_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise GeneratorError(f"{self.name} failed: {done.stderr[-500:] or done.stdout[-500:]}")
        return self.read(done.stdout)


class _WrkOutput(msgspec.Struct):
    requests: int
    seconds: float
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float


class _OhaSummary(msgspec.Struct):
    total: float


class _OhaOutput(msgspec.Struct, rename="camel"):
    summary: _OhaSummary
    latency_percentiles: dict[str, float | None]
    status_code_distribution: dict[str, int]
    error_distribution: dict[str, int]


def read_wrk(text: str) -> Load:
    """Read the last line of wrk.lua. wrk counts refused requests among its requests."""
    done = _last(text, _WrkOutput)
    return Load(
        answered=done.requests - done.refused,
        refused=done.refused,
        broken=done.broken,
        seconds=done.seconds,
        p50_ms=done.p50_ms,
        p99_ms=done.p99_ms,
    )


def read_oha(text: str) -> Load:
    """Read oha's JSON. Its latencies are in seconds.

    Requests that oha's own deadline cut off are not errors of the subject.
    """
    done = _decode(text, _OhaOutput)
    answered = done.status_code_distribution.get("200", 0)
    percentiles = done.latency_percentiles
    return Load(
        answered=answered,
        refused=sum(done.status_code_distribution.values()) - answered,
        broken=sum(
            count for reason, count in done.error_distribution.items() if "deadline" not in reason
        ),
        seconds=done.summary.total,
        p50_ms=(percentiles["p50"] or 0.0) * 1000,
        p99_ms=(percentiles["p99"] or 0.0) * 1000,
    )


def read_bundled(text: str) -> Load:
    done = _last(text, LoadWindow)
    return Load(
        answered=done.answered,
        refused=done.refused,
        broken=done.broken,
        seconds=done.seconds,
        p50_ms=done.p50_ms,
        p99_ms=done.p99_ms,
    )


def _last(text: str, kind: type[Kind]) -> Kind:
    return _decode(text.strip().rpartition("\n")[2], kind)


def _decode(text: str, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise GeneratorError(
            f"cannot read the output of the load generator ({error}): {text[-300:]!r}"
        ) from error


def _wrk(url: str, bodies: Path, connections: int, seconds: float) -> list[str]:
    script = str(ROOT / "benchmarks" / "wrk.lua")
    return [
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "30s",
        "-s",
        script,
        url,
        "--",
        str(bodies),
    ]


def _oha(url: str, bodies: Path, connections: int, seconds: float) -> list[str]:
    shape = ["--no-tui", "--output-format", "json", "-c", str(connections), "-z", f"{seconds}s"]
    return ["oha", *shape, "-m", "POST", "-T", "application/json", "-Z", str(bodies), url]


def _bundled(url: str, bodies: Path, connections: int, seconds: float) -> list[str]:
    return [
        sys.executable,
        "-m",
        "benchmarks.client",
        url,
        str(bodies),
        "--connections",
        str(connections),
        "--seconds",
        str(seconds),
    ]


def _lines(headers: Mapping[str, str]) -> list[str]:
    return [f"{name}: {value}" for name, value in headers.items()]


def _options(headers: Mapping[str, str]) -> list[str]:
    return [part for line in _lines(headers) for part in ("-H", line)]


GENERATORS = {
    "wrk": Generator("wrk", "one thread of wrk", _wrk, read_wrk, _lines),
    "oha": Generator("oha", "oha, on all cores", _oha, read_oha, _options),
    "bundled": Generator(
        "bundled",
        "the bundled client, in Python: slower than wrk,"
        " so the fastest subjects look slower than they are",
        _bundled,
        read_bundled,
        _options,
    ),
}


def choose(name: str | None = None) -> Generator:
    """Return the generator of this name, or the first that is installed.

    Raises GeneratorError if it is not installed.
    """
    for known, generator in GENERATORS.items():
        if known == (name or known) and (known == "bundled" or shutil.which(known)):
            return generator
    raise GeneratorError(f"{name} is not installed: install it, or leave out --generator")
