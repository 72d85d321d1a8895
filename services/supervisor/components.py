"""The parts of a fraudops on one machine: how each is started, asked and stopped."""

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from fraudops.canonical import canonical_json, sha256_bytes
from fraudops.errors import StoreDownError
from fraudops.proxies import no_proxy
from fraudops.settings import COMMAND_LINE, PREFIX
from fraudops.state import State
from services.mlflow import server as mlflow_server
from services.supervisor import postgresql, probes
from services.supervisor.logs import last_words
from services.supervisor.postgresql import PostgreSQL, postmasters, server_processes
from services.supervisor.processes import (
    Handle,
    ShutdownPolicy,
    programs,
    run_to_end,
    session_members,
)
from services.supervisor.record import RunConfig

INFERENCE, SHIPPER = "services.inference", "services.shipper"
LOOPBACK = "127.0.0.1"
_PROXIES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]
_AUTHORITIES = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
_PLACE = ["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ"]
INHERITED = frozenset([*_PLACE, *_AUTHORITIES, *_PROXIES, *map(str.upper, _PROXIES)])


def endings(state: State) -> dict[str, ShutdownPolicy]:
    """By part, in the order in which they are stopped: first who takes requests, last who keeps
    what came of them.
    """
    data = PostgreSQL(state.postgresql, 0).data

    def of_postgresql(leader: Handle) -> list[psutil.Process]:
        """Its children have sessions of their own; all work in the data folder."""
        return list(
            {
                process.pid: process
                for process in (*session_members(leader), *server_processes(data))
            }.values()
        )

    def of_module(module: str, folder: Path, seconds: float) -> ShutdownPolicy:
        return ShutdownPolicy(
            signal.SIGTERM, seconds, session_members, lambda: programs(module, folder)
        )

    return {
        "inference": of_module(INFERENCE, state.root, 25.0),
        "shipper": of_module(SHIPPER, state.root, 20.0),
        "mlflow": of_module(mlflow_server.MODULE, state.mlflow, 10.0),
        "postgresql": ShutdownPolicy(signal.SIGINT, 30.0, of_postgresql, lambda: postmasters(data)),
    }


@dataclass(frozen=True)
class Component:
    """`prepare` may change the command;

    `needs`: the parts that must run before it is started, with `at_once` only before it is
    started again.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    shutdown: ShutdownPolicy
    probe: Callable[[Handle], None]
    prepare: Callable[[], Awaitable[tuple[str, ...]]] | None = None
    when_ready: Callable[[], None] | None = None
    needs: tuple[str, ...] = ()
    at_once: bool = False
    before_stop: Callable[[], None] | None = None
    address: tuple[str, int] | None = None

    @property
    def fingerprint(self) -> str:
        """Of what makes it another part: not of what the shell that started it happened to hold."""
        chosen = {name: value for name, value in self.environment.items() if name not in INHERITED}
        return sha256_bytes(canonical_json([self.command, chosen]))


def build(
    state: State, choices: RunConfig, server: PostgreSQL, admin_token: str
) -> dict[str, Component]:
    """Every part by name, in the order in which people read them."""
    stop = endings(state)
    parts = (
        _postgresql(server, stop["postgresql"]),
        _mlflow(state, choices, server, stop["mlflow"]),
        _inference(state, choices, admin_token, stop["inference"]),
        _shipper(state, server, stop["shipper"]),
    )
    return {part.name: part for part in parts}


def reconcile(
    state: State, choices: RunConfig, server: PostgreSQL
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Command and environment of the job that brings late bookkeeping after the serving record."""
    environment = _settings(state) | {
        "DATABASE_URL": server.url(),
        "MLFLOW_TRACKING_URI": choices.mlflow_url,
    }
    return _program("jobs.reconcile", "--state", str(state.root)), environment


def _inherited() -> dict[str, str]:
    """What every program may have from the shell.

    The parts talk to each other on this machine: never through a proxy.
    """
    inherited = {name: value for name, value in os.environ.items() if name in INHERITED}
    return {
        "PATH": os.defpath,
        **inherited,
        **no_proxy(os.environ),
        "PYTHONUNBUFFERED": "1",
    }


def _settings(state: State) -> dict[str, str]:
    """For our own programs also the user's own `FRAUDOPS_*` settings."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and name not in COMMAND_LINE
    }
    return _inherited() | settings | {"FRAUDOPS_STATE": str(state.root)}


def _program(module: str, *arguments: str) -> tuple[str, ...]:
    """`-P`: no module is looked for in the folder that one happens to stand in."""
    return (sys.executable, "-P", "-m", module, *arguments)


def _postgresql(server: PostgreSQL, ending: ShutdownPolicy) -> Component:
    async def prepare() -> tuple[str, ...]:
        identity = await asyncio.to_thread(server.prepare)
        return identity.wrap(*server.command())

    def probe(_: Handle) -> None:
        complaint = server.complaint()
        if complaint:
            raise probes.ProbeError(complaint)

    return Component(
        name="postgresql",
        command=server.command(),
        environment=postgresql.environment(),
        folder=Path("/"),
        shutdown=ending,
        probe=probe,
        prepare=prepare,
        when_ready=server.create_databases,
        address=(LOOPBACK, server.port),
    )


def _mlflow(
    state: State, choices: RunConfig, server: PostgreSQL, ending: ShutdownPolicy
) -> Component:
    """First started beside PostgreSQL, not after it: it takes longer to import than PostgreSQL to
    start, and then waits for it.
    """
    return Component(
        name="mlflow",
        command=_program(*mlflow_server.arguments(choices.mlflow_port)),
        environment=_inherited()
        | mlflow_server.environment(server.url("mlflow"), state.mlflow / "artifacts"),
        folder=state.mlflow,
        shutdown=ending,
        probe=lambda process: probes.expect_200(process, choices.mlflow_url + probes.MLFLOW),
        needs=("postgresql",),
        at_once=True,
        address=(LOOPBACK, choices.mlflow_port),
    )


def _inference(
    state: State, choices: RunConfig, admin_token: str, ending: ShutdownPolicy
) -> Component:
    """It needs neither PostgreSQL nor MLflow to answer."""
    environment = {
        "FRAUDOPS_HOST": choices.host,
        "FRAUDOPS_PORT": str(choices.inference_port),
        "FRAUDOPS_WORKERS": str(choices.workers),
        "FRAUDOPS_ADMIN_TOKEN": admin_token,
        "MLFLOW_TRACKING_URI": choices.mlflow_url,
    }
    return Component(
        name="inference",
        command=_program(INFERENCE),
        environment=_settings(state) | environment,
        folder=state.root,
        shutdown=ending,
        probe=lambda process: probes.expect_200(process, f"{choices.inference_url}/health"),
        before_stop=lambda: probes.drain(choices.inference_url, admin_token),
        address=(choices.host, choices.inference_port),
    )


def _shipper(state: State, server: PostgreSQL, ending: ShutdownPolicy) -> Component:
    command = _program(SHIPPER)
    environment = _settings(state) | {"DATABASE_URL": server.url()}

    async def prepare() -> tuple[str, ...]:
        log = state.logs / "migrate.log"
        code = await run_to_end(
            _program("jobs.migrate", "--wait", "0"), environment, log, state.root, seconds=120.0
        )
        if code != 0:
            raise StoreDownError(
                f"the migration of the audit database failed with exit code {code}: {last_words(log)} (log: {log})"
            )
        return command

    return Component(
        name="shipper",
        command=command,
        environment=environment,
        folder=state.root,
        shutdown=ending,
        probe=lambda process: probes.expect_written(state, process.pid),
        prepare=prepare,
        needs=("postgresql",),
    )
