"""The audit's whole path under faults, from the clients to PostgreSQL.

Clients, service, spool, shipper, a faulty network and PostgreSQL run as real processes.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg

from fraudops.audit.migrations import migrate
from fraudops.audit.shipper_status import ShipperStatus, read_shipper_status
from fraudops.state import State
from services.supervisor.postgresql import PostgreSQL
from services.supervisor.postgresql_processes import server_processes
from services.supervisor.postgresql_standalone import start, stop
from tests.support.answer_log import Log
from tests.support.fault_proxy import FaultProxy
from tests.support.figures import PROOF
from tests.support.pgbouncer import PgBouncer, running_pgbouncer
from tests.support.processes import free_port, lifeline
from tests.support.serving import ULB_ROW, Service
from tests.support.waiting import eventually
from tests.support.warm_start import Process, start_python

CLIENTS, PAUSE = 4, 0.02
# In the short tier the shipper waits 3 s instead of a minute for a silent PostgreSQL. Nothing else
# of it differs.
IMPATIENT = (
    "from services.shipper import row_writer; row_writer.TRANSACTION_SECONDS = 3.0;"
    " from services.shipper.__main__ import main; main()"
)
SHIPPER = ["-m", "services.shipper"] if PROOF else ["-c", IMPATIENT]
SETTLE_SECONDS = 600 if PROOF else 60
SERVER = {} if PROOF else {"fsync": "off"}


@dataclass
class FaultHarness:
    """All running parts; `restore` starts them again after each test."""

    folder: Path
    server: PostgreSQL
    proxy: FaultProxy
    service: Service
    settings: dict[str, str]
    postgresql: "subprocess.Popen[bytes]"
    # Between the faulty network and PostgreSQL, if the harness runs with one.
    pooler: PgBouncer | None = None
    shippers: list[Process] = field(default_factory=list)
    loads: int = 0

    @property
    def state(self) -> State:
        return self.service.state

    @property
    def url(self) -> str:
        """The URL of the database itself, past the faulty network."""
        return self.server.url()

    @property
    def status(self) -> ShipperStatus:
        """The status of the shipper that runs now."""
        status = read_shipper_status(self.state)
        assert status
        assert status.pid == self.shippers[-1].pid
        return status

    def stop_postgresql(self) -> None:
        stop(self.postgresql)

    def kill_postgresql(self) -> None:
        """Kill all server processes together, as the out-of-memory killer or a lost node does."""
        for process in server_processes(self.server.data):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.postgresql.wait(10)

    def start_postgresql(self) -> None:
        self.postgresql = start(self.server, self.folder / "postgresql.log", **SERVER)

    def start_shipper(self) -> None:
        url = urlsplit(self.url)
        through = url._replace(
            netloc=url.netloc.replace(f":{url.port}", f":{self.proxy.port}")
        ).geturl()
        environment = {
            "PATH": os.environ["PATH"],
            "DATABASE_URL": through,
            "FRAUDOPS_STATE": str(self.state.root),
        }
        with (self.folder / "shipper.log").open("ab") as log:
            self.shippers.append(start_python(SHIPPER, environment, log))

    def end_shipper(self, number: int = signal.SIGKILL) -> None:
        self.shippers[-1].send_signal(number)
        self.shippers[-1].wait(20)

    def kill_service(self) -> None:
        """Kill the service with all its workers; none of them can react."""
        assert self.service.process
        processes = [
            psutil.Process(self.service.process.pid),
            *psutil.Process(self.service.process.pid).children(recursive=True),
        ]
        # Suspend all first: otherwise the main process replaces a worker that dies before it.
        for process in processes:
            process.suspend()
        for process in processes:
            process.kill()
        self.service.process.wait(10)
        psutil.wait_procs(processes[1:], 10)

    def restart_service(self, *program: str, **environment: str) -> None:
        """Stop the service gracefully and start it as another program."""
        self.service.stop()
        self.service.program, self.service.environment = program, {**self.settings, **environment}
        self.start_service()

    def restore(self) -> None:
        """Start what a failed test left stopped, and remove the faults that it left."""
        self.proxy.clear()
        if self.pooler and self.pooler.process and self.pooler.process.poll() is not None:
            self.pooler.start()
        if self.postgresql.poll() is not None:
            self.start_postgresql()
        assert self.service.process
        usual = (("services.inference",), self.settings)
        runs = self.service.process.poll() is None
        if not runs or (self.service.program, self.service.environment) != usual:
            self.restart_service("services.inference")
        eventually(self.service.ready)
        refuse_large_files(self.service.worker_pids(), resource.RLIM_INFINITY)
        if self.shippers[-1].poll() is not None:
            self.start_shipper()

    def start_service(self) -> None:
        self.service.start()
        eventually(self.service.ready)

    def replaced(self, dead: int) -> None:
        """Wait until another worker has replaced the dead one."""

        def complete_again() -> None:
            workers = self.service.worker_pids()
            assert dead not in workers
            assert len(workers) == self.service.workers

        eventually(complete_again)

    def fill_spool(self, log: Log) -> httpx.Response:
        """Post batches until one is refused, and return that answer.

        The accepted answers go into the log.
        """
        body = json.dumps({"transactions": [ULB_ROW] * 250})
        for _ in range(1000):
            answer = self.service.post("/predict/batch", body)
            if answer.status_code != 200:
                return answer
            with log.path.open("a") as file:
                file.write(answer.text + "\n")
        raise AssertionError("the spool never filled up")

    @contextlib.contextmanager
    def refusing_constraint(self) -> Iterator[None]:
        """Let every prediction violate a constraint during the block."""
        with psycopg.connect(self.url, autocommit=True) as admin:
            admin.execute(
                "ALTER TABLE predictions ADD CONSTRAINT wrong CHECK (latency_ms < 0) NOT VALID"
            )
            try:
                yield
            finally:
                admin.execute("ALTER TABLE predictions DROP CONSTRAINT wrong")

    def expect_refusal(self) -> None:
        """Require that status and metric show the refusal by that constraint."""
        status = self.status
        assert (status.phase, status.fault) == (
            "refused",
            "SQLSTATE 23514, constraint wrong of table predictions",
        )
        assert self.service.metrics()["fraudops_shipper_refused"] == 1

    @contextlib.contextmanager
    def load(self, clients: int = CLIENTS, pause_seconds: float = PAUSE) -> Iterator[Log]:
        """Run the clients during the block. Each posts once in `pause_seconds`.

        The block begins when answers arrive. At its end every client has the answer to its last
        request.
        """
        self.loads += 1
        log = Log(self.folder / f"answers-{self.loads}.jsonl")
        arguments = [
            self.service.url,
            str(clients),
            str(pause_seconds),
            f"load-{self.loads}",
            str(log.path),
        ]
        clients = subprocess.Popen(
            [sys.executable, "-m", "tests.support.audited_load", *arguments], stdin=subprocess.PIPE
        )
        try:
            log.grew_by(20)
            yield log
        finally:
            clients.communicate(timeout=60)

    def settled(self) -> None:
        """Wait until the shipper has nothing left to ship.

        It may first have to notice that a connection is dead.
        """
        moment = datetime.now(UTC)

        def empty() -> None:
            assert self.status.at > moment
            assert (self.status.backlog_bytes, self.status.phase) == (0, "shipping"), self.status

        eventually(empty, SETTLE_SECONDS)


@contextlib.contextmanager
def running_harness(
    folder: Path, *, pooled: bool = False, **settings: str
) -> Iterator[FaultHarness]:
    """Run PostgreSQL, proxy, service and shipper; all of them end with the block.

    With `pooled` the shipper reaches PostgreSQL through PgBouncer in transaction mode.
    """
    server = PostgreSQL(folder / "server", free_port())
    postgresql = start(server, folder / "postgresql.log", **SERVER)
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            lifeline("sh", "-c", f"kill -INT $(head -1 {server.data}/postmaster.pid)")
        )
        # A pooler that does not start must not leave the server running.
        stack.callback(stop, postgresql)
        pooler = (
            stack.enter_context(running_pgbouncer(folder / "pgbouncer", server.url()))
            if pooled
            else None
        )
        upstream = pooler.port if pooler else server.port
        proxy = stack.enter_context(FaultProxy(upstream).running())
        world = FaultHarness(
            folder,
            server,
            proxy,
            Service(folder / "state", environment=settings),
            settings,
            postgresql,
            pooler,
        )
        stack.callback(lambda: stop(world.postgresql))
        migrate(pooler.behind(server.url()) if pooler else server.url())
        world.service.promoted(1)
        stack.callback(lambda: world.service.stop())
        world.start_shipper()
        stack.callback(lambda: world.end_shipper())
        world.settled()
        yield world


def pause(short: float, full: float) -> float:
    """Wait for the seconds of the tier, and return them."""
    seconds = full if PROOF else short
    time.sleep(seconds)
    return seconds


def refuse_large_files(pids: list[int], size: int) -> None:
    """Let the kernel refuse writes beyond `size`, as a full disk does.

    The part below `size` is still written. The limit needs no privileges.
    """
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
