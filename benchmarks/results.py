"""The files of a result: NAME.json with everything, NAME.md with tables, NAME.png."""

import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import msgspec
import psutil

from benchmarks.models import ROOT
from benchmarks.spread import Claim, short

RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = (
    "fastapi",
    "uvicorn",
    "uvloop",
    "httptools",
    "msgspec",
    "numpy",
    "onnxruntime",
    "scikit-learn",
    "prometheus-client",
)


class Machine(msgspec.Struct, frozen=True):
    processor: str
    cores: int
    memory_gib: float
    kernel: str
    python: str
    libraries: dict[str, str]


class Table(msgspec.Struct, frozen=True):
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


class Result(msgspec.Struct, kw_only=True):
    """A result; `details` holds the data behind the tables and claims.

    `changed` says that the checkout differs from the commit.
    """

    name: str
    title: str
    at: str
    commit: str
    changed: bool
    quick: bool
    machine: Machine
    settings: dict[str, Any]
    tables: list[Table] = []
    claims: list[Claim] = []
    notes: list[str] = []
    details: Any = None


class Plan(Protocol):
    """The part of benchmarks.commands.BenchmarkPlan that every result states."""

    @property
    def rounds(self) -> int: ...
    @property
    def seconds(self) -> float: ...
    @property
    def quick(self) -> bool: ...
    @property
    def generator(self) -> Any: ...


def begin(name: str, title: str, plan: Plan, **settings: Any) -> Result:
    settings = {
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "load generator": plan.generator.name,
        **settings,
    }
    commit, changed = revision()
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Result(
        name=name,
        title=title,
        at=at,
        commit=commit,
        changed=changed,
        quick=plan.quick,
        machine=machine(),
        settings=settings,
    )


def machine() -> Machine:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "unknown",
    )
    libraries = {name: version(name) for name in LIBRARIES}
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return Machine(
        model,
        len(os.sched_getaffinity(0)),
        memory,
        ".".join(platform.release().split(".")[:2]),
        platform.python_version(),
        libraries,
    )


def revision() -> tuple[str, bool]:
    """Return the commit, and whether its files have changed since, results excluded."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        status = [*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"]
        changed = subprocess.run(
            status, capture_output=True, text=True, check=True, timeout=10
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown", True
    return commit, bool(changed.strip())


def write(result: Result, folder: Path) -> Path:
    """Write the result into a folder and return the common stem of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / result.name
    stem.with_suffix(".json").write_bytes(
        msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"
    )
    stem.with_suffix(".md").write_text(markdown(result))
    return stem


def read(path: Path) -> Result:
    return msgspec.json.decode(path.read_bytes(), type=Result)


def markdown(result: Result) -> str:
    machine = result.machine
    parts = [f"# {result.title}\n"]
    if result.quick:
        parts.append(
            "**A quick run: it checks that the benchmark works. Its figures mean nothing.**\n"
        )
    where = (
        f"{machine.cores} cores ({machine.processor}), {machine.memory_gib} GiB,"
        f" Linux {machine.kernel}, Python {machine.python}"
    )
    what = f"commit {result.commit[:12]}{' with changes' if result.changed else ''}"
    settings = ", ".join(
        f"{name.replace('_', ' ')} {value}" for name, value in result.settings.items()
    )
    sentence = f" {settings[:1].upper()}{settings[1:]}." if settings else ""
    parts.append(f"{what}, {result.at}. {where}.{sentence}\n")
    if result.claims:
        rows = [
            (
                claim.text,
                f"{claim.side} {short(claim.bound)}",
                str(claim.measured),
                "yes" if claim.holds else "**no**",
            )
            for claim in result.claims
        ]
        parts.append(_table(Table("Claims", ("claim", "bound", "median (range)", "holds"), rows)))
    parts += [_table(table) for table in result.tables]
    parts += [f"{note}\n" for note in result.notes]
    return "\n".join(parts)


def _table(table: Table) -> str:
    lines = [
        f"## {table.title}\n",
        _row(table.columns),
        _row(["---", *["---:"] * (len(table.columns) - 1)]),
        *map(_row, table.rows),
    ]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
