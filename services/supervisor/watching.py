"""Follow a supervisor through its record, until all components have settled."""

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
from services.supervisor.display import Announcer, address_table, settled
from services.supervisor.processes import Handle
from services.supervisor.record import Record, load
from services.supervisor.supervisor import RETRY_SIGNAL

LOOK_SECONDS = 0.05
WAIT_SECONDS = 180.0
ALL_RUNNING, NOT_ALL_RUNNING = 0, 75


def join(state: State, supervisor: Handle, notices: Console, output: Console) -> int:
    """Wait for the components of a running supervisor.

    The supervisor is first asked to retry the components that it gave up. Returns the exit code.
    """
    notices.print(
        f"already running in {escape(str(state.root))} under supervisor {supervisor.pid}; "
        "`fraudops down` stops it"
    )
    announcer = Announcer(notices)
    announcer.skip(load(state))
    if _any_given_up(state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor.pid, RETRY_SIGNAL)
        # "gave up" counts as settled, so wait until the supervisor has noted the new attempts.
        wait_for(lambda: not _any_given_up(state), 2.0)
    return _follow(state, supervisor, announcer, output, lambda: supervisor.alive)


def _any_given_up(state: State) -> bool:
    return any(component.phase == "gave up" for component in load(state).components.values())


def watch_child(
    state: State, child: subprocess.Popen[bytes], begin: int, notices: Console, output: Console
) -> int:
    """Wait for the components of a supervisor that this process has just started.

    Its messages start at byte `begin` of the log. Returns the exit code.
    """
    supervisor = Handle.of(child.pid)
    code = _follow(state, supervisor, Announcer(notices), output, lambda: child.poll() is None)
    if child.returncode is None:
        # The demo passes on standard output, but not the other stream: this line would come first.
        with contextlib.suppress(OSError):
            output.print("`fraudops status` shows its state, `fraudops down` stops it")
        return code
    if child.returncode == ALL_RUNNING:
        # The child has joined the supervisor of another `up`, which won the race for the lock.
        return _follow(state, None, Announcer(notices), output, lambda: True)
    notices.print(_since(state.logs / "supervisor.log", begin), markup=False)
    return child.returncode


def _follow(
    state: State,
    supervisor: Handle | None,
    announcer: Announcer,
    output: Console,
    alive: Callable[[], bool],
) -> int:
    """Print changes until all components have settled or `alive` is false.

    `supervisor` is the one whose record is awaited; None accepts any supervisor's. Returns the
    exit code. Raises StoreDownError after WAIT_SECONDS.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    record = Record()
    while alive():
        record = load(state)
        # Until the new supervisor has saved its record, the file has the previous run's.
        if record.supervisor and supervisor in (None, record.supervisor):
            announcer.announce(record)
            if settled(record) and record.run_config:
                announcer.show(address_table(state, record.run_config), output)
                return NOT_ALL_RUNNING if _not_running(record) else ALL_RUNNING
        if time.monotonic() > deadline:
            late = ", ".join(_not_running(record)) or "the supervisor"
            raise StoreDownError(
                f"not running after {WAIT_SECONDS:.0f} s: {late}; see `fraudops status` and "
                f"{state.logs}"
            )
        time.sleep(LOOK_SECONDS)
    return NOT_ALL_RUNNING


def _not_running(record: Record) -> list[str]:
    return [name for name, component in record.components.items() if component.phase != "running"]


def wait_for(check: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (true := check()) and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
    return true


def _since(log: Path, begin: int) -> str:
    with log.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace").strip()
