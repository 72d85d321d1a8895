"""The audit's whole road, made to be broken: clients, service, spool, shipper, a network with
faults, PostgreSQL; and the answer log held against the table.
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

from fraudops.audit.database import migrate
from fraudops.audit.shipper_status import ShipperStatus, read_shipper_status
from fraudops.state import State
from services.supervisor.postgresql import PostgreSQL, server_processes, start, stop
from tests.support.answer_log import Log
from tests.support.fault_proxy import FaultProxy
from tests.support.figures import PROOF
from tests.support.processes import free_port, lifeline
from tests.support.serving import ULB_ROW, Service
from tests.support.waiting import eventually

CLIENTS, PAUSE = 4, 0.02
# In the short tier the shipper waits 3 s for a silent PostgreSQL and not a minute: nothing else in
# it differs.
IMPATIENT = "from services.shipper import sink; sink.TRANSACTION_SECONDS = 3.0; from services.shipper.__main__ import main; main()"
SHIPPER = ["-m", "services.shipper"] if PROOF else ["-c", IMPATIENT]
SETTLE_SECONDS = 600 if PROOF else 60
SERVER = {} if PROOF else {"fsync": "off"}


@dataclass
class FaultHarness:
    """Everything runs; `restore` makes it so again after each test."""

    folder: Path
    server: PostgreSQL
    proxy: FaultProxy
    service: Service
    settings: dict[str, str]
    postgresql: "subprocess.Popen[bytes]"
    shippers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    loads: int = 0

    @property
    def state(self) -> State:
        return self.service.state

    @property
    def url(self) -> str:
        """Of the database itself, not through the faulty network."""
        return self.server.url()

    @property
    def status(self) -> ShipperStatus:
        """Of the shipper that runs now."""
        told = read_shipper_status(self.state)
        assert told
        assert told.pid == self.shippers[-1].pid
        return told

    def stop_postgresql(self) -> None:
        stop(self.postgresql)

    def kill_postgresql(self) -> None:
        """All of its processes at once, as a machine's out-of-memory killer or a lost node would."""
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
            self.shippers.append(
                subprocess.Popen(
                    [sys.executable, *SHIPPER], env=environment, stdout=log, stderr=log
                )
            )

    def end_shipper(self, number: int = signal.SIGKILL) -> None:
        self.shippers[-1].send_signal(number)
        self.shippers[-1].wait(20)

    def kill_service(self) -> None:
        """The service with all its workers: none gets to do anything first."""
        assert self.service.process
        everyone = [
            psutil.Process(self.service.process.pid),
            *psutil.Process(self.service.process.pid).children(recursive=True),
        ]
        for process in everyone:
            process.suspend()
        for process in everyone:
            process.kill()
        self.service.process.wait(10)
        psutil.wait_procs(everyone[1:], 10)

    def restart_service(self, *program: str, **environment: str) -> None:
        """Politely, as another program."""
        self.service.stop()
        self.service.program, self.service.environment = program, {**self.settings, **environment}
        self.start_service()

    def restore(self) -> None:
        """Start what a failed test left stopped, and end the faults that it left in force."""
        self.proxy.clear()
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
        """Waits for another worker in the place of this one."""

        def whole_again() -> None:
            workers = self.service.worker_pids()
            assert dead not in workers
            assert len(workers) == self.service.workers

        eventually(whole_again)

    def fill_spool(self, log: Log) -> httpx.Response:
        """Posts batches, whose answers go into the log too, until one is refused; that answer."""
        body = json.dumps({"transactions": [ULB_ROW] * 250})
        for _ in range(1000):
            answer = self.service.post("/predict/batch", body)
            if answer.status_code != 200:
                return answer
            with log.path.open("a") as file:
                file.write(answer.text + "\n")
        raise AssertionError("the spool never filled up")

    @contextlib.contextmanager
    def load(self) -> Iterator[Log]:
        """Answers are given when the block begins; at its end every client has the answer to its
        last request.
        """
        self.loads += 1
        log = Log(self.folder / f"answers-{self.loads}.jsonl")
        arguments = [
            self.service.url,
            str(CLIENTS),
            str(PAUSE),
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
        """Waits until the shipper has nothing left to ship: it may have to find out first that a
        connection is dead.
        """
        moment = datetime.now(UTC)

        def empty() -> None:
            assert self.status.at > moment
            assert (self.status.backlog_bytes, self.status.phase) == (0, "shipping"), self.status

        eventually(empty, SETTLE_SECONDS)


@contextlib.contextmanager
def running_harness(folder: Path, **settings: str) -> Iterator[FaultHarness]:
    """PostgreSQL, proxy, service and shipper; none of them outlives the block."""
    server = PostgreSQL(folder / "server", free_port())
    postgresql = start(server, folder / "postgresql.log", **SERVER)
    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(FaultProxy(server.port).running())
        world = FaultHarness(
            folder,
            server,
            proxy,
            Service(folder / "state", environment=settings),
            settings,
            postgresql,
        )
        stack.callback(lambda: stop(world.postgresql))
        stack.enter_context(
            lifeline("sh", "-c", f"kill -INT $(head -1 {server.data}/postmaster.pid)")
        )
        migrate(server.url())
        world.service.promoted(1)
        stack.callback(lambda: world.service.stop())
        world.start_shipper()
        stack.callback(lambda: world.end_shipper())
        world.settled()
        yield world


def pause(short: float, full: float) -> float:
    """Waits so long as the tier says, and returns it."""
    seconds = full if PROOF else short
    time.sleep(seconds)
    return seconds


def refuse_large_files(pids: list[int], size: int) -> None:
    """The kernel writes what fits below `size` and then refuses, as a full disk does, and needs no
    rights for it.
    """
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
