"""The components of fraudops on one machine: how each is started, probed and stopped."""

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
from services.supervisor.logs import last_error_line
from services.supervisor.postgresql import PostgreSQL
from services.supervisor.postgresql_processes import postmasters, server_processes
from services.supervisor.processes import (
    Handle,
    ShutdownPolicy,
    programs,
    run_to_completion,
    session_members,
)
from services.supervisor.record import RunConfig

INFERENCE, SHIPPER = "services.inference", "services.shipper"
LOOPBACK = "127.0.0.1"
_PROXIES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]
_CERTIFICATES = ["SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
_BASICS = ["PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "TZ"]
INHERITED = frozenset([*_BASICS, *_CERTIFICATES, *_PROXIES, *map(str.upper, _PROXIES)])


def shutdown_policies(state: State) -> dict[str, ShutdownPolicy]:
    """Return each component's shutdown policy, in the order in which components stop.

    The inference service stops first, because it takes requests. The shipper then ships the last
    records, and PostgreSQL, which stores them, stops last.
    """
    data = PostgreSQL(state.postgresql, 0).data

    def of_postgresql(leader: Handle) -> list[psutil.Process]:
        # PostgreSQL's child processes open sessions of their own, so the session alone misses
        # them. All of them work in the data folder.
        members = (*session_members(leader), *server_processes(data))
        return list({process.pid: process for process in members}.values())

    def of_module(module: str, folder: Path, seconds: float) -> ShutdownPolicy:
        return ShutdownPolicy(
            signal.SIGTERM, seconds, session_members, lambda: programs(module, folder)
        )

    return {
        "inference": of_module(INFERENCE, state.root, 25.0),
        "shipper": of_module(SHIPPER, state.root, 20.0),
        "mlflow": of_module(mlflow_server.MODULE, state.mlflow, 10.0),
        # SIGINT is PostgreSQL's fast shutdown. SIGTERM would wait for every client to leave.
        "postgresql": ShutdownPolicy(signal.SIGINT, 30.0, of_postgresql, lambda: postmasters(data)),
    }


@dataclass(frozen=True)
class Component:
    """A program that the supervisor keeps running, with the hooks to start, probe and stop it.

    `probe` raises ProbeError while the component does not work.
    `prepare` runs before each start and returns the command to start.
    `when_ready` runs each time the component has become ready.
    `before_stop` runs before the component is asked to stop.
    `needs` names the components that must run before this one starts. If `first_start_waits` is
    false, only a restart waits for them.
    `address` is the host and port where the component will listen.
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
    first_start_waits: bool = True
    before_stop: Callable[[], None] | None = None
    address: tuple[str, int] | None = None

    @property
    def fingerprint(self) -> str:
        """A digest of the command and settings; a different digest requires a restart.

        Variables that are only inherited from the shell do not count, so `up` from another shell
        adopts the running process.
        """
        chosen = {name: value for name, value in self.environment.items() if name not in INHERITED}
        return sha256_bytes(canonical_json([self.command, chosen]))


def build(
    state: State, config: RunConfig, server: PostgreSQL, admin_token: str
) -> dict[str, Component]:
    """Return every component by name, in the order in which they are displayed."""
    policies = shutdown_policies(state)
    components = (
        _postgresql(server, policies["postgresql"]),
        _mlflow(state, config, server, policies["mlflow"]),
        _inference(state, config, admin_token, policies["inference"]),
        _shipper(state, server, policies["shipper"]),
    )
    return {component.name: component for component in components}


def reconcile_job(
    state: State, config: RunConfig, server: PostgreSQL
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the command and environment of the job that reconciles with the serving record."""
    environment = _settings(state) | {
        "DATABASE_URL": server.url(),
        "MLFLOW_TRACKING_URI": config.mlflow_url,
    }
    return _program("jobs.reconcile", "--state", str(state.root)), environment


def _inherited() -> dict[str, str]:
    """Return the variables that every program may inherit from the shell.

    NO_PROXY covers this machine, because the components never call each other through a proxy.
    """
    inherited = {name: value for name, value in os.environ.items() if name in INHERITED}
    return {
        "PATH": os.defpath,
        **inherited,
        **no_proxy(os.environ),
        "PYTHONUNBUFFERED": "1",
    }


def _settings(state: State) -> dict[str, str]:
    """Return the environment of a fraudops program: also the user's `FRAUDOPS_*` settings."""
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and name not in COMMAND_LINE
    }
    return _inherited() | settings | {"FRAUDOPS_STATE": str(state.root)}


def _program(module: str, *arguments: str) -> tuple[str, ...]:
    # -P keeps the working folder off sys.path: a file there could shadow a module.
    return (sys.executable, "-P", "-m", module, *arguments)


def _postgresql(server: PostgreSQL, policy: ShutdownPolicy) -> Component:
    async def prepare() -> tuple[str, ...]:
        identity = await asyncio.to_thread(server.prepare)
        return identity.wrap(*server.command())

    def probe(_: Handle) -> None:
        error = server.connection_error()
        if error:
            raise probes.ProbeError(error)

    return Component(
        name="postgresql",
        command=server.command(),
        environment=postgresql.environment(),
        # PostgreSQL may run as a user that cannot enter our folder.
        folder=Path("/"),
        shutdown=policy,
        probe=probe,
        prepare=prepare,
        when_ready=server.create_databases,
        address=(LOOPBACK, server.port),
    )


def _mlflow(
    state: State, config: RunConfig, server: PostgreSQL, policy: ShutdownPolicy
) -> Component:
    return Component(
        name="mlflow",
        command=_program(*mlflow_server.arguments(config.mlflow_port)),
        environment=_inherited()
        | mlflow_server.environment(server.url("mlflow"), state.mlflow / "artifacts"),
        folder=state.mlflow,
        shutdown=policy,
        probe=lambda process: probes.expect_200(process, config.mlflow_url + probes.MLFLOW),
        needs=("postgresql",),
        # MLflow's imports take longer than PostgreSQL's start, so both start together. MLflow
        # retries its connection to the database.
        first_start_waits=False,
        address=(LOOPBACK, config.mlflow_port),
    )


def _inference(
    state: State, config: RunConfig, admin_token: str, policy: ShutdownPolicy
) -> Component:
    # The service answers without PostgreSQL and without MLflow, so it needs no other component.
    # No DATABASE_URL: only the shipper writes to PostgreSQL.
    environment = {
        "FRAUDOPS_HOST": config.host,
        "FRAUDOPS_PORT": str(config.inference_port),
        "FRAUDOPS_WORKERS": str(config.workers),
        "FRAUDOPS_ADMIN_TOKEN": admin_token,
        "MLFLOW_TRACKING_URI": config.mlflow_url,
    }
    return Component(
        name="inference",
        command=_program(INFERENCE),
        environment=_settings(state) | environment,
        folder=state.root,
        shutdown=policy,
        probe=lambda process: probes.expect_200(process, f"{config.inference_url}/health"),
        before_stop=lambda: probes.drain(config.inference_url, admin_token),
        address=(config.host, config.inference_port),
    )


def _shipper(state: State, server: PostgreSQL, policy: ShutdownPolicy) -> Component:
    command = _program(SHIPPER)
    environment = _settings(state) | {"DATABASE_URL": server.url()}

    async def prepare() -> tuple[str, ...]:
        # The shipper writes into the newest schema, so each start migrates first.
        log = state.logs / "migrate.log"
        code = await run_to_completion(
            _program("jobs.migrate", "--wait", "0"), environment, log, state.root, seconds=120.0
        )
        if code != 0:
            raise StoreDownError(
                "the migration of the audit database failed with exit code "
                f"{code}: {last_error_line(log)} (log: {log})"
            )
        return command

    return Component(
        name="shipper",
        command=command,
        environment=environment,
        folder=state.root,
        shutdown=policy,
        probe=lambda process: probes.expect_shipper_status(state, process.pid),
        prepare=prepare,
        needs=("postgresql",),
    )
