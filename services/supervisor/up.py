"""`up`: takes the state folder's lock and supervises, or joins the one who does."""

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
from fraudops.state import State
from services.supervisor import ports
from services.supervisor.display import Announcer, settled, table
from services.supervisor.postgresql import PostgreSQL
from services.supervisor.processes import Handle
from services.supervisor.record import Record, RunConfig, holder, load, lock
from services.supervisor.supervisor import Supervisor
from services.supervisor.watching import join, watch_child

WAIT_SECONDS = 120.0
ELSEWHERE = ("DATABASE_URL", "MLFLOW_TRACKING_URI", "FRAUDOPS_URL")


@dataclass(frozen=True)
class UpOptions:
    """What the user named; None: as last time."""

    host: str | None = None
    port: int | None = None
    workers: int | None = None

    def arguments(self) -> list[str]:
        named = {"--host": self.host, "--port": self.port, "--workers": self.workers}
        return [
            word
            for name, value in named.items()
            if value is not None
            for word in (name, str(value))
        ]


def up_here(state: State, options: UpOptions, notices: Console, output: Console) -> int:
    """Supervises until a signal, or joins who does already. Returns the exit code."""
    _check(state, notices)
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        with lock(state, "up") as ours:
            if ours:
                _supervise(state, options, notices, output)
                return 0
        supervisor = holder(state)
        if supervisor and supervisor.role == "up" and not load(state).stopping:
            return _join(state, options, supervisor.process, notices, output)
        time.sleep(0.05)
    raise StoreDownError(
        f"what runs in {state.root} has been stopping for {WAIT_SECONDS:.0f} s: see `fraudops status`"
    )


def up_detached(state: State, options: UpOptions, notices: Console, output: Console) -> int:
    """Leaves a supervisor behind, and returns when all runs or will not."""
    _check(state, notices)
    supervisor = holder(state)
    if supervisor and supervisor.role == "up" and not load(state).stopping:
        return _join(state, options, supervisor.process, notices, output)
    command = [
        sys.executable,
        "-P",
        "-m",
        "services.supervisor",
        "up",
        "--state",
        str(state.root),
        *options.arguments(),
    ]
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


def _check(state: State, notices: Console) -> None:
    """Before anything is started: a wrong `FRAUDOPS_` variable would end the parts one by one.

    Makes the folder.
    """
    os.umask(0o077)
    InferenceSettings.from_environment()
    try:
        state.logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot keep anything in {state.root} ({error.strerror}): name another folder with --state"
        ) from error
    for name in ELSEWHERE:
        if os.environ.get(name):
            notices.print(
                f"[yellow]note:[/] {name} is set in this shell: commands will use it, not what `up` starts"
            )


def _join(
    state: State, options: UpOptions, supervisor: Handle, notices: Console, output: Console
) -> int:
    choices = load(state).run_config
    if choices and options not in (
        UpOptions(),
        UpOptions(choices.host, choices.inference_port, choices.workers),
    ):
        notices.print(
            "[yellow]note:[/] it goes on with the settings that it has: `fraudops down` first, then `up` with others"
        )
    return join(state, supervisor, notices, output)


def _supervise(state: State, options: UpOptions, notices: Console, output: Console) -> None:
    announcer = Announcer(notices, dated=not notices.is_terminal)
    announce = _announce_and_show(state, announcer, output)
    record = load(state)
    with ports.Claims() as claims:
        while True:
            living = [
                name
                for name, part in record.components.items()
                if part.process and part.process.alive
            ]
            choices = ports.choose(
                claims, record.run_config, options.host, options.port, options.workers, living
            )
            if asyncio.run(_build(state, record, choices, announce).run()):
                return
            announcer.say("a port was taken by somebody else meanwhile: choosing again")


def _announce_and_show(
    state: State, announcer: Announcer, output: Console
) -> Callable[[Record], None]:
    """Tells each change, and shows the table when all runs for the first time."""
    shown = False

    def announce(record: Record) -> None:
        nonlocal shown
        announcer.tell(record)
        if not shown and record.run_config and settled(record):
            shown = True
            announcer.show(table(state, record.run_config), output)
            if not announcer.dated:
                announcer.say("Ctrl-C stops everything")

    return announce


def _build(
    state: State, record: Record, choices: RunConfig, announce: Callable[[Record], None]
) -> Supervisor:
    for folder in (state.mlflow, state.run, state.spool, state.bundles, state.metrics):
        folder.mkdir(parents=True, exist_ok=True)
    server = PostgreSQL(state.postgresql, choices.postgresql_port)
    server.make_passwords()
    endpoints = Endpoints(
        inference_url=choices.inference_url,
        database_url=server.url(),
        mlflow_url=choices.mlflow_url,
    )
    write_atomically(state.endpoints, msgspec.json.encode(endpoints), private=True)
    return Supervisor(state, record, choices, server, _admin_token(state.admin_token), announce)


def _admin_token(path: Path) -> str:
    if not path.exists():
        write_atomically(path, secrets.token_urlsafe(32).encode(), private=True)
    return path.read_text().strip()
