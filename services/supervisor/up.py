"""`fraudops up`: supervise the components, or join the supervisor that already does.

The lock of the state folder decides which of the two happens.
"""

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from fraudops.endpoints import Endpoints
from fraudops.errors import SettingsError, StoreDownError
from fraudops.files import write_atomically
from fraudops.settings import InferenceSettings
from fraudops.signing.key_files import ensure_key
from fraudops.state import State
from services.supervisor import ports
from services.supervisor.display import Announcer, address_table, settled
from services.supervisor.postgresql import PostgreSQL
from services.supervisor.processes import Handle
from services.supervisor.record import Record, RunConfig, load, lock, lock_holder
from services.supervisor.supervisor import Supervisor
from services.supervisor.watching import join, watch_child

WAIT_SECONDS = 120.0
# Variables by which commands use other servers than those that `up` starts.
EXTERNAL_SERVERS = ("DATABASE_URL", "MLFLOW_TRACKING_URI", "FRAUDOPS_URL")


@dataclass(frozen=True)
class UpOptions:
    """The options that the user gave. None means the value of the last `up`."""

    host: str | None = None
    port: int | None = None
    workers: int | None = None

    def arguments(self) -> list[str]:
        options = {"--host": self.host, "--port": self.port, "--workers": self.workers}
        return [
            word
            for name, value in options.items()
            if value is not None
            for word in (name, str(value))
        ]


def up_in_foreground(state: State, options: UpOptions, notices: Console, output: Console) -> int:
    """Supervise until a signal, or join the running supervisor. Returns the exit code.

    Raises StoreDownError when the last run does not finish stopping in time.
    """
    _check(state, notices)
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with lock(state, "up") as acquired:
            if acquired:
                _supervise(state, options, notices, output)
                return 0
        supervisor = _running_supervisor(state)
        if supervisor:
            return _join(state, options, supervisor, notices, output)
        # The lock belongs to a `down`, or to a supervisor that is stopping.
        time.sleep(0.05)
    raise StoreDownError(
        f"the last run in {state.root} has not finished stopping after {WAIT_SECONDS:.0f} s: "
        "see `fraudops status`"
    )


def up_detached(state: State, options: UpOptions, notices: Console, output: Console) -> int:
    """Start a supervisor in the background.

    Waits until every component runs or was given up. Returns the exit code.
    """
    _check(state, notices)
    supervisor = _running_supervisor(state)
    if supervisor:
        return _join(state, options, supervisor, notices, output)
    program = [sys.executable, "-P", "-m", "services.supervisor"]
    command = [*program, "up", "--state", str(state.root), *options.arguments()]
    # Cached bytecode makes the next start of every component faster.
    environment = {
        name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
    }
    with (state.logs / "supervisor.log").open("ab") as log:
        begin = log.tell()
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=environment,
            cwd=state.root,
            start_new_session=True,
        )
    return watch_child(state, child, begin, notices, output)


def _running_supervisor(state: State) -> Handle | None:
    """Return the supervisor of the state folder, or None if it is absent or stopping."""
    holder = lock_holder(state)
    if holder and holder.role == "up" and not load(state).stopping:
        return holder.process
    return None


def _check(state: State, notices: Console) -> None:
    """Check the settings and create the state folder. Raises SettingsError."""
    # The components inherit this umask, so only their user can read what they write.
    os.umask(0o077)
    # A wrong FRAUDOPS_ variable would otherwise end one component after the other.
    InferenceSettings.from_environment()
    try:
        state.logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot write to {state.root} ({error.strerror}): name another folder with --state"
        ) from error
    for name in EXTERNAL_SERVERS:
        if os.environ.get(name):
            notices.print(
                f"[yellow]note:[/] {name} is set in this shell: commands will use it instead of "
                "what `up` starts"
            )


def _join(
    state: State, options: UpOptions, supervisor: Handle, notices: Console, output: Console
) -> int:
    config = load(state).run_config
    if config and options not in (
        UpOptions(),
        UpOptions(config.host, config.inference_port, config.workers),
    ):
        notices.print(
            "[yellow]note:[/] the running fraudops keeps its settings: to change them, run "
            "`fraudops down` and then `fraudops up` with the new ones"
        )
    return join(state, supervisor, notices, output)


def _supervise(state: State, options: UpOptions, notices: Console, output: Console) -> None:
    announcer = Announcer(notices, dated=not notices.is_terminal)
    display = _Display(state, announcer, output)
    record = load(state)
    with ports.PortClaims() as claims:
        while True:
            # Components that a killed supervisor left running keep their ports and are adopted.
            living = [
                name
                for name, component in record.components.items()
                if component.process and component.process.alive
            ]
            config = ports.choose_ports(
                claims, record.run_config, options.host, options.port, options.workers, living
            )
            if asyncio.run(_build(state, record, config, display.update).run()):
                return
            announcer.print("another process has taken a chosen port: choosing again")


class _Display:
    """Prints each change, and once the table of addresses, when the components have settled."""

    def __init__(self, state: State, announcer: Announcer, output: Console) -> None:
        self._state = state
        self._announcer = announcer
        self._output = output
        self._table_shown = False

    def update(self, record: Record) -> None:
        self._announcer.announce(record)
        if self._table_shown or not record.run_config or not settled(record):
            return
        self._table_shown = True
        self._announcer.show(address_table(self._state, record.run_config), self._output)
        # A dated log belongs to a supervisor in the background, which no Ctrl-C reaches.
        if not self._announcer.dated:
            self._announcer.print("Ctrl-C stops everything")


def _build(
    state: State, record: Record, config: RunConfig, announce: Callable[[Record], None]
) -> Supervisor:
    for folder in (state.mlflow, state.run, state.spool, state.bundles, state.metrics):
        folder.mkdir(parents=True, exist_ok=True)
    # Signatures are required on one machine too. Commands find the keys in the state folder.
    ensure_key(state.verdict_key, state.public_keys, "verdict")
    ensure_key(state.waiver_key, state.public_keys, "waiver")
    server = PostgreSQL(state.postgresql, config.postgresql_port)
    server.make_passwords()
    endpoints = Endpoints(
        inference_url=config.inference_url,
        database_url=server.url(),
        mlflow_url=config.mlflow_url,
    )
    write_atomically(state.endpoints, msgspec.json.encode(endpoints), private=True)
    return Supervisor(state, record, config, server, _admin_token(state.admin_token), announce)


def _admin_token(path: Path) -> str:
    # Kept from run to run: with another token the fingerprint would change, and a running service
    # could not be adopted.
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32).encode(), private=True)
    return path.read_text().strip()
