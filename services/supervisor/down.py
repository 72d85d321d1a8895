"""`down`: stops the supervisor, which stops its parts in order; where it is dead, stops them itself."""

import asyncio
import contextlib
import os
import signal
import time

from rich.console import Console
from rich.markup import escape

from fraudops.errors import StoreDownError
from fraudops.state import State
from services.supervisor.components import endings
from services.supervisor.display import Announcer
from services.supervisor.processes import end
from services.supervisor.record import ComponentRecord, holder, load, lock, save

# All parts together may take longer than this only if every one has to be killed.
PATIENCE_SECONDS = 95.0


def down(state: State, notices: Console) -> None:
    """Raises StoreDownError when somebody else's `down` does not come to an end."""
    if not state.root.is_dir():
        notices.print(f"nothing runs in {state.root}", markup=False)
        return
    os.umask(0o077)
    announcer = Announcer(notices)
    found = False
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with lock(state, "down") as ours:
            if ours:
                found = asyncio.run(_stop_parts(state, announcer)) or found
                announcer.say(f"nothing runs in {escape(str(state.root))}{' now' if found else ''}")
                return
        found = _stop_supervisor(state, announcer, deadline - PATIENCE_SECONDS) or found
    raise StoreDownError(
        f"what runs in {state.root} does not stop: see `fraudops status` and {state.logs}"
    )


def _stop_supervisor(state: State, announcer: Announcer, deadline: float) -> bool:
    """Asks it once and waits; kills it when it does not come to an end. Whether there was one."""
    holding = holder(state)
    if holding is None or holding.role != "up":
        time.sleep(0.05)
        return False
    announcer.skip(load(state))
    with contextlib.suppress(ProcessLookupError):
        os.kill(holding.process.pid, signal.SIGTERM)
    while holding.process.alive:
        announcer.tell(load(state))
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holding.process.pid, signal.SIGKILL)
        time.sleep(0.05)
    announcer.tell(load(state))
    return True


async def _stop_parts(state: State, announcer: Announcer) -> bool:
    """What a supervisor that was killed left behind. Whether anything was."""
    record = load(state)
    found = False
    for name, ending in endings(state).items():
        part = record.components.setdefault(name, ComponentRecord())
        ended = await end(part.process, ending)
        found = found or ended
        part.process, part.phase = None, "stopped"
        if ended:
            announcer.tell(record)
    record.supervisor, record.stopping = None, False
    save(state, record)
    state.endpoints.unlink(missing_ok=True)
    return found
