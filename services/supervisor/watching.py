"""Following a supervisor from outside, by what it writes down: until all runs, or until nothing does."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from fraudops.errors import StoreDownError
from fraudops.state import State
from services.supervisor.display import Announcer, settled, table
from services.supervisor.processes import Handle
from services.supervisor.record import Record, load
from services.supervisor.supervisor import TRY_AGAIN

LOOK_SECONDS = 0.05
WAIT_SECONDS = 180.0
ALL_IS_WELL, NOT_ALL_RUNS = 0, 75


def join(state: State, supervisor: Handle, notices: Console, output: Console) -> int:
    """Waits for what another `up` started, having asked it to try again what it gave up.

    Returns the exit code.
    """
    notices.print(
        f"already running in {escape(str(state.root))} under supervisor {supervisor.pid}; `fraudops down` stops it"
    )
    announcer = Announcer(notices)
    announcer.skip(load(state))
    if any(part.phase == "gave up" for part in load(state).components.values()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor.pid, TRY_AGAIN)
        wait_for(
            lambda: all(part.phase != "gave up" for part in load(state).components.values()), 2.0
        )
    return _follow(state, supervisor, announcer, output, lambda: supervisor.alive)


def watch_child(
    state: State, child: subprocess.Popen[bytes], begin: int, notices: Console, output: Console
) -> int:
    """Waits for a supervisor that was just started, whose log begins at byte `begin`.

    Returns the exit code.
    """
    supervisor = Handle.of(child.pid)
    code = _follow(state, supervisor, Announcer(notices), output, lambda: child.poll() is None)
    if child.returncode is None:
        notices.print("`fraudops status` tells how it is, `fraudops down` stops it")
        return code
    if child.returncode == ALL_IS_WELL:
        return _follow(state, None, Announcer(notices), output, lambda: True)
    notices.print(_since(state.logs / "supervisor.log", begin), markup=False)
    return child.returncode


def _follow(
    state: State,
    supervisor: Handle | None,
    announcer: Announcer,
    output: Console,
    goes_on: Callable[[], bool],
) -> int:
    """Tells what changes until all is settled or the supervisor is gone.

    `supervisor`: whose record to wait for, None for anybody's.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    record = Record()
    while goes_on():
        record = load(state)
        if record.supervisor and supervisor in (None, record.supervisor):
            announcer.tell(record)
            if settled(record) and record.run_config:
                announcer.show(table(state, record.run_config), output)
                return (
                    ALL_IS_WELL
                    if all(part.phase == "running" for part in record.components.values())
                    else NOT_ALL_RUNS
                )
        if time.monotonic() > deadline:
            late = ", ".join(
                name for name, part in record.components.items() if part.phase != "running"
            )
            raise StoreDownError(
                f"not running after {WAIT_SECONDS:.0f} s: {late or 'the supervisor'}; see `fraudops status` and {state.logs}"
            )
        time.sleep(LOOK_SECONDS)
    return NOT_ALL_RUNS


def wait_for(check: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (true := check()) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return true


def _since(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace").strip()
