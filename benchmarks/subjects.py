"""The subjects of a run: the floors, the product, a tutorial's service, and the peers."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks import peers
from benchmarks.models import ROOT, BenchmarkModels
from benchmarks.processes import bare_environment, free_port, running, wait_until_answering
from benchmarks.product import Product, product
from benchmarks.protocols import CONSTANT, INFERENCE, TRANSACTION, Protocol, write_bodies
from fraudops.settings import AuditSettings

TOLERANCE = 1e-6


@dataclass
class BenchmarkSite:
    """The models, bodies and database that all turns share.

    Each turn works in a new folder below `folder`.
    """

    folder: Path
    models: BenchmarkModels
    database: str | None = None
    _turns: int = field(default=0)

    def fresh(self, name: str) -> Path:
        self._turns += 1
        return self.folder / f"{name}-{self._turns}"

    def bodies(self, protocol: Protocol, rows: int = 1) -> Path:
        """Return the file of bodies of `rows` rows each, with at least three bodies."""
        path = self.folder / f"bodies-{id(protocol)}-{rows}"
        x = self.models.x
        return (
            path
            if path.exists()
            else write_bodies(
                path,
                protocol,
                self.models.names,
                x[np.arange(max(len(x), 3 * rows)) % len(x)],
                rows,
            )
        )


@dataclass(frozen=True)
class Running:
    """A subject that answers; `pid` leads its processes.

    `product` is None for a subject that is not the product.
    """

    url: str
    pid: int
    product: Product | None = None


@dataclass(frozen=True)
class Subject:
    """A program to measure; results use its `key`, and `kind` is the model that it serves.

    Each request has the `headers`.
    """

    key: str
    title: str
    protocol: Protocol
    workers: int
    start: Callable[[BenchmarkSite], AbstractContextManager[Running]]
    kind: str = "linear"
    group: str = "ours"
    headers: Mapping[str, str] = field(default_factory=dict)


def application(
    key: str,
    title: str,
    module: str,
    protocol: Protocol,
    workers: int,
    group: str,
    model: bool = False,
) -> Subject:
    """A program of benchmarks.applications under uvicorn, with the product's server options."""

    @contextlib.contextmanager
    def start(site: BenchmarkSite) -> Iterator[Running]:
        port, folder = free_port(), site.fresh(key)
        folder.mkdir()
        environment = bare_environment(OPENBLAS_NUM_THREADS="1")
        if model:
            environment["BENCHMARK_MODEL"] = str(_pipeline(site))
        options = [
            "--loop",
            "uvloop",
            "--http",
            "httptools",
            "--ws",
            "none",
            "--no-access-log",
            "--no-server-header",
            "--no-proxy-headers",
        ]
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            f"benchmarks.applications.{module}:app",
            "--port",
            str(port),
            "--workers",
            str(workers),
            *options,
        ]
        url = f"http://127.0.0.1:{port}/predict"
        with running(
            [*command, "--log-level", "warning"], environment, ROOT, folder / "log"
        ) as process:
            wait_until_answering(process, url, site.bodies(protocol), folder / "log")
            yield Running(url, process.pid)

    return Subject(key, title, protocol, workers, start, group=group)


def _pipeline(site: BenchmarkSite) -> Path:
    """Return the file of the fitted pipeline.

    It has the columns' names, so that a DataFrame causes no warning.
    """
    import joblib

    from benchmarks.peers.pipeline import build

    path = site.folder / "model.joblib"
    if not path.exists():
        joblib.dump(build(site.models.plain, list(site.models.names)), path)
    return path


def ours(
    key: str,
    title: str,
    workers: int,
    settings: Mapping[str, str] | None = None,
    kind: str = "linear",
    ships: bool = True,
    protocol: Protocol = TRANSACTION,
) -> Subject:
    """The product; `ships` starts the shipper too, which writes every answer to PostgreSQL."""
    path = "/v2/models/credit-fraud/infer" if protocol is INFERENCE else "/predict"

    @contextlib.contextmanager
    def start(site: BenchmarkSite) -> Iterator[Running]:
        database = site.database if ships else None
        with product(
            site.fresh(key),
            site.models,
            kind,
            workers,
            settings or {},
            site.bodies(TRANSACTION),
            database,
        ) as running_product:
            yield Running(
                f"{running_product.url}{path}", running_product.process.pid, running_product
            )

    return Subject(key, title, protocol, workers, start, kind)


def peer(known: peers.Peer, workers: int) -> Subject:
    @contextlib.contextmanager
    def start(site: BenchmarkSite) -> Iterator[Running]:
        folder = site.fresh(known.name)
        launch = peers.prepare(known, peers.install(known), folder, site.models.plain, workers)
        with running(launch.command, launch.environment, launch.folder, folder / "log") as process:
            wait_until_answering(
                process, launch.url, site.bodies(known.protocol), folder / "log", 180.0
            )
            yield Running(launch.url, process.pid)

    return Subject(
        f"{known.name}-{workers}",
        f"{known.title}, {_workers(workers)}",
        known.protocol,
        workers,
        start,
        group="peers",
    )


def durabilities() -> tuple[str, ...]:
    """Return the choices of `audit.durability` in this version of the product."""
    chosen = AuditSettings.model_fields.get("durability")
    return tuple(get_args(chosen.annotation)) if chosen else ("spool",)


def audit_defaults() -> str:
    """Describe the audit's default settings."""
    audit = AuditSettings()
    return (
        f"spool, fsync every {audit.fsync_interval_ms} ms"
        if audit.fsync == "interval"
        else f"spool, fsync {audit.fsync}"
    )


def floors(workers: int) -> Subject:
    return application(
        f"floor-{workers}",
        f"bare ASGI constant, {_workers(workers)}",
        "floor",
        CONSTANT,
        workers,
        "floor",
    )


def standard(workers: tuple[int, ...] = (1, 2)) -> list[Subject]:
    """Return all subjects but the peers."""
    subjects = [floors(number) for number in workers]
    subjects.append(
        application("parsing-1", "FastAPI, only parses, 1 worker", "parsing", CONSTANT, 1, "others")
    )
    for number in workers:
        subjects.append(
            ours(f"ours-{number}", f"fraudops, {_workers(number)}, audit spool, shipping", number)
        )
    subjects.append(
        ours(
            "ours-alone-1",
            "fraudops, 1 worker, audit spool, nothing shipped during the load",
            1,
            ships=False,
        )
    )
    subjects.append(
        ours(
            "ours-v2-1",
            "fraudops, 1 worker, Open Inference Protocol (JSON), audit spool, shipping",
            1,
            protocol=INFERENCE,
        )
    )
    for durability in durabilities():
        if durability != "spool":
            settings = {"FRAUDOPS_AUDIT__DURABILITY": durability}
            subjects.append(
                ours(
                    f"ours-{durability}-1",
                    f"fraudops, 1 worker, audit {durability}",
                    1,
                    settings,
                    ships=durability != "off",
                )
            )
    subjects.append(
        ours(
            "trees-1",
            "fraudops, gradient boosting, 1 worker, audit spool, shipping",
            1,
            kind="trees",
        )
    )
    for number in workers:
        subjects.append(
            application(
                f"tutorial-{number}",
                f"a tutorial's FastAPI, {_workers(number)}",
                "tutorial",
                TRANSACTION,
                number,
                "others",
                model=True,
            )
        )
    return subjects


def _workers(number: int) -> str:
    return f"{number} worker" if number == 1 else f"{number} workers"
