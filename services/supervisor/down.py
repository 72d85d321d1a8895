"""`fraudops down`: stop the supervisor and all components.

A living supervisor stops its components in order. If the supervisor is dead, `down` stops them.
"""

import asyncio
import contextlib
import os
import signal
import time

from rich.console import Console
from rich.markup import escape

from fraudops.errors import StoreDownError
from fraudops.state import State
from services.supervisor.components import shutdown_policies
from services.supervisor.display import Announcer
from services.supervisor.processes import terminate
from services.supervisor.record import ComponentRecord, load, lock, lock_holder, save

# Longer than the sum of all shutdown policies, so only components that must be killed exceed it.
PATIENCE_SECONDS = 95.0


def down(state: State, notices: Console) -> None:
    """Stop everything in the state folder.

    Raises StoreDownError when another `down` holds the lock for too long.
    """
    if not state.root.is_dir():
        notices.print(f"nothing runs in {state.root}", markup=False)
        return
    os.umask(0o077)
    announcer = Announcer(notices)
    stopped = False
    deadline = time.monotonic() + 2 * PATIENCE_SECONDS
    while time.monotonic() < deadline:
        # Holding the lock means that no supervisor lives and none can start.
        with lock(state, "down") as acquired:
            if acquired:
                stopped = asyncio.run(_stop_components(state, announcer)) or stopped
                now = " now" if stopped else ""
                announcer.print(f"nothing runs in {escape(str(state.root))}{now}")
                return
        stopped = _stop_supervisor(state, announcer, deadline - PATIENCE_SECONDS) or stopped
    raise StoreDownError(
        f"the components in {state.root} do not stop: see `fraudops status` and {state.logs}"
    )


def _stop_supervisor(state: State, announcer: Announcer, deadline: float) -> bool:
    """Send SIGTERM once and wait; send SIGKILL after the deadline.

    Returns whether a supervisor was running.
    """
    holder = lock_holder(state)
    if holder is None or holder.role != "up":
        time.sleep(0.05)
        return False
    announcer.skip(load(state))
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder.process.pid, signal.SIGTERM)
    # Its record says how far it is, so its lines can be printed here.
    while holder.process.alive:
        announcer.announce(load(state))
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder.process.pid, signal.SIGKILL)
        time.sleep(0.05)
    announcer.announce(load(state))
    return True


async def _stop_components(state: State, announcer: Announcer) -> bool:
    """Stop the components that a killed supervisor left running.

    Returns whether there were any.
    """
    record = load(state)
    stopped = False
    for name, policy in shutdown_policies(state).items():
        component = record.components.setdefault(name, ComponentRecord())
        ended = await terminate(component.process, policy)
        stopped = stopped or ended
        component.process, component.phase = None, "stopped"
        if ended:
            announcer.announce(record)
    record.supervisor, record.stopping = None, False
    save(state, record)
    state.endpoints.unlink(missing_ok=True)
    return stopped
