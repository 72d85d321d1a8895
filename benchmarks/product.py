"""The product as users start it: `python -m services.inference` over a state folder.

The folder has a cached bundle and a serving record. With a database, the shipper runs too.
"""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import psycopg

from benchmarks.models import ROOT, BenchmarkModels
from benchmarks.processes import (
    NO_HEADERS,
    SubjectError,
    bare_environment,
    free_port,
    running,
    tree,
    wait_until,
    wait_until_answering,
)
from benchmarks.signing import sign_cached
from fraudops.audit.shipper_status import read_shipper_status
from fraudops.model.manifest import read_manifest, seal
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.state import State
from services.supervisor.postgresql import PostgreSQL
from services.supervisor.postgresql_standalone import start, stop

DRAIN_SECONDS = 300.0
ADMIN_TOKEN = "of-the-benchmarks"


@contextlib.contextmanager
def database(folder: Path) -> Iterator[str]:
    """The URL of an embedded PostgreSQL with the audit's tables, set up as by `fraudops up`."""
    folder.mkdir(parents=True, exist_ok=True)
    server = PostgreSQL(folder / "server", free_port())
    process = start(server, folder / "postgresql.log")
    try:
        migrate = [sys.executable, "-m", "jobs.migrate", "--wait", "0"]
        environment = bare_environment(DATABASE_URL=server.url(), FRAUDOPS_STATE=str(folder))
        subprocess.run(
            migrate, cwd=ROOT, env=environment, check=True, timeout=120, capture_output=True
        )
        yield server.url()
    finally:
        stop(process)


@dataclass(frozen=True)
class Product:
    """A running service.

    `pod` is its name on every audited row. `database` is the target of its shipper, if it has one.
    """

    state: State
    url: str
    pod: str
    process: subprocess.Popen[bytes]
    database: str | None

    def workers(self) -> list[psutil.Process]:
        return [
            process
            for process in tree(self.process.pid)
            if (self.state.run / f"worker-{process.pid}.sock").exists()
        ]

    def drain(self, seconds: float = DRAIN_SECONDS) -> float:
        """Wait until PostgreSQL has all answers, and return the seconds that it took.

        Raises SubjectError.
        """
        started, moment = time.monotonic(), datetime.now(UTC)

        def drained() -> bool:
            shown = read_shipper_status(self.state)
            return shown is not None and shown.at > moment and shown.backlog_bytes == 0

        wait_until(
            drained,
            "the shipper has not shipped everything to PostgreSQL"
            f" (see its log {self.state.root / 'shipper.log'})",
            seconds,
        )
        return time.monotonic() - started

    def promote_again(self, number: int) -> float:
        """Promote a new bundle with the scores of the served one, in the next epoch.

        Returns the seconds until every worker serves it. Raises SubjectError.
        """
        store = FileRecordStore(self.state.serving_record)
        record, token = store.read()
        if record.current is None:
            raise SubjectError("nothing is served")
        digest = _another(self.state.bundles / record.current.digest, number)
        entry = msgspec.structs.replace(
            record.current,
            epoch=record.epoch + 1,
            version=str(number),
            digest=digest,
            signed_verdict=sign_cached(self.state, str(number), digest),
        )
        started = time.monotonic()
        self._reload(phase="prepare", version=entry.version, digest=digest, epoch=entry.epoch)
        store.compare_and_set(ServingRecord(current=entry, alias_epoch=entry.epoch), token)
        self._reload(phase="commit", epoch=entry.epoch)
        return time.monotonic() - started

    def _reload(self, **body: Any) -> None:
        answer = httpx.post(
            f"{self.url}/reload",
            json=body,
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
            timeout=60,
            trust_env=False,
        )
        if answer.status_code != 200:
            raise SubjectError(f"{body['phase']}: {answer.status_code} {answer.text[:300]}")

    def audited(self) -> int:
        """Return the number of rows of this service in PostgreSQL."""
        if self.database is None:
            raise SubjectError("this service has no database")
        with psycopg.connect(self.database) as connection:
            row = connection.execute(
                "SELECT count(*) FROM predictions WHERE pod = %s", [self.pod]
            ).fetchone()
            return int(row[0]) if row else 0


def _another(folder: Path, number: int) -> str:
    """Write the bundle again, as of another training run, and return the copy's digest."""
    copy = folder.with_name(f".another-{number}")
    shutil.copytree(folder, copy)
    digest = seal(
        copy, msgspec.structs.replace(read_manifest(folder), git_revision=f"run {number}")
    )
    copy.rename(folder.with_name(digest))
    return digest


def lay_out(folder: Path, models: BenchmarkModels, kind: str) -> State:
    """Make a state folder whose record names version 1, with its bundle in the cache."""
    state, digest = State.at(folder), models.digest(kind)
    state.bundles.mkdir(parents=True)
    shutil.copytree(models.folder / kind, state.bundles / digest)
    entry = ServingEntry(
        epoch=1,
        version="1",
        digest=digest,
        schema_fingerprint="of the bundle",
        by="benchmarks",
        act="promote",
        at="2026-01-01T00:00:00Z",
        verdict={},
        signed_verdict=sign_cached(state, "1", digest),
    )
    FileRecordStore(state.serving_record).compare_and_set(
        ServingRecord(current=entry, alias_epoch=1), b""
    )
    return state


@contextlib.contextmanager
def product(
    folder: Path,
    models: BenchmarkModels,
    kind: str,
    workers: int,
    settings: Mapping[str, str],
    bodies: Path,
    database: str | None,
    headers: Mapping[str, str] = NO_HEADERS,
    code: Path = ROOT,
) -> Iterator[Product]:
    """A service that is ready to answer requests with `headers`, run from the checkout `code`.

    The folder must not exist. It is removed afterwards.
    """
    state, port = lay_out(folder, models, kind), free_port()
    own = {
        "FRAUDOPS_STATE": str(folder),
        "FRAUDOPS_PORT": str(port),
        "FRAUDOPS_WORKERS": str(workers),
        "FRAUDOPS_POD": folder.name,
    }
    own |= {"FRAUDOPS_ADMIN_TOKEN": ADMIN_TOKEN, **settings}
    where = {"DATABASE_URL": database} if database else {}
    log, url = folder / "service.log", f"http://127.0.0.1:{port}"
    try:
        with contextlib.ExitStack() as stack:
            if database:
                environment = bare_environment(FRAUDOPS_STATE=str(folder), DATABASE_URL=database)
                stack.enter_context(
                    running(
                        [sys.executable, "-m", "services.shipper"],
                        environment,
                        code,
                        folder / "shipper.log",
                    )
                )
            service = stack.enter_context(
                running(
                    [sys.executable, "-m", "services.inference"],
                    bare_environment(**own, **where),
                    code,
                    log,
                )
            )
            wait_until_answering(service, f"{url}/predict", bodies, log, headers=headers)
            yield Product(state, url, folder.name, service, database)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
