"""The supervisor itself: all parts under one loop, until a signal stops them in order."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from fraudops.state import State
from services.supervisor import components, logs
from services.supervisor.component_monitor import ComponentMonitor, PortTakenError
from services.supervisor.components import endings
from services.supervisor.postgresql import PostgreSQL
from services.supervisor.processes import Handle, run_to_end
from services.supervisor.record import ComponentRecord, Record, RunConfig, record_path, save

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TRY_AGAIN = signal.SIGUSR1
RECONCILE_SECONDS = 20.0
HOUSEKEEPING_SECONDS = 5.0


class Supervisor:
    """Runs the parts that `choices` describe.

    `record` is saved and `announce` called with each change.
    """

    def __init__(
        self,
        state: State,
        record: Record,
        choices: RunConfig,
        server: PostgreSQL,
        admin_token: str,
        announce: Callable[[Record], None],
    ) -> None:
        self._state = state
        self._record = record
        self._choices = choices
        self._server = server
        self._announce = announce
        wanted = components.build(state, choices, server, admin_token)
        record.supervisor, record.stopping, record.run_config = (
            Handle.of(os.getpid()),
            False,
            choices,
        )
        record.components = {
            name: record.components.get(name, ComponentRecord()) for name in wanted
        }
        for part in record.components.values():
            part.phase, part.restarts, part.reason = "waiting", 0, None
        self._keepers = {
            name: ComponentMonitor(
                part, record.components[name], state.logs / f"{name}.log", self._changed
            )
            for name, part in wanted.items()
        }

    async def run(self) -> bool:
        """Until a signal stops everything: True.

        False when all was stopped because a port was lost to somebody else before its part ever
        ran.

        A defect of ours ends the supervisor alone: the parts go on, and the next `up` takes them
        over.
        """
        asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in STOP:
            loop.add_signal_handler(number, asked.set)
        loop.add_signal_handler(TRY_AGAIN, self._try_again)
        work: list[Coroutine[Any, Any, Any]] = [
            monitor.keep(self._keepers) for monitor in self._keepers.values()
        ]
        work += [self._reconcile(), self._keep_house(asked), asked.wait()]
        tasks = [asyncio.create_task(each) for each in work]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, PortTakenError):
                raise outcome
        await self._stop()
        return asked.is_set()

    async def _stop(self) -> None:
        """In order; the shipper takes what the last requests left before it goes, and so before
        PostgreSQL does.
        """
        self._record.stopping = True
        for name in endings(self._state):
            await self._keepers[name].stop()
        self._record.supervisor = None
        self._state.endpoints.unlink(missing_ok=True)
        self._changed()

    def _try_again(self) -> None:
        for monitor in self._keepers.values():
            monitor.again.set()

    def _changed(self) -> None:
        """A full disk stops nobody."""
        with contextlib.suppress(OSError):
            save(self._state, self._record)
        self._announce(self._record)

    async def _reconcile(self) -> None:
        """Brings late bookkeeping after the serving record; there is none before the first
        promotion, and none to be done with a store away.
        """
        command, environment = components.reconcile(self._state, self._choices, self._server)
        while True:
            await asyncio.sleep(RECONCILE_SECONDS)
            if self._state.serving_record.exists() and all(
                self._keepers[name].runs.is_set() for name in ("postgresql", "mlflow")
            ):
                await run_to_end(
                    command,
                    environment,
                    self._state.logs / "reconcile.log",
                    self._state.root,
                    seconds=120.0,
                )

    async def _keep_house(self, asked: asyncio.Event) -> None:
        """Keeps the logs short; whose folder somebody has removed is to stop, or nobody would find
        it any more.
        """
        while record_path(self._state).exists():
            with contextlib.suppress(OSError):
                logs.bound(self._state.logs)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
        asked.set()
