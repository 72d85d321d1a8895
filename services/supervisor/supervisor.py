"""The supervisor: one event loop that runs all component monitors until a signal."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any

from fraudops.state import State
from services.supervisor import components, logs
from services.supervisor.component_monitor import ComponentMonitor, PortTakenError
from services.supervisor.components import shutdown_policies
from services.supervisor.postgresql import PostgreSQL
from services.supervisor.processes import Handle, run_to_completion
from services.supervisor.record import ComponentRecord, Record, RunConfig, record_path, save

STOP = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_SIGNAL = signal.SIGUSR1
RECONCILE_SECONDS = 20.0
HOUSEKEEPING_SECONDS = 5.0


class Supervisor:
    """Run the components with the settings of `config`.

    Each change is saved in `record` and passed to `announce`.
    """

    def __init__(
        self,
        state: State,
        record: Record,
        config: RunConfig,
        server: PostgreSQL,
        admin_token: str,
        announce: Callable[[Record], None],
    ) -> None:
        self._state = state
        self._record = record
        self._config = config
        self._server = server
        self._announce = announce
        by_name = components.build(state, config, server, admin_token)
        record.supervisor, record.stopping = Handle.of(os.getpid()), False
        record.run_config = config
        # The entries of the last run stay: their processes may still live and be adopted.
        record.components = {
            name: record.components.get(name, ComponentRecord()) for name in by_name
        }
        for entry in record.components.values():
            entry.phase, entry.restarts, entry.reason = "waiting", 0, None
        self._monitors = {
            name: ComponentMonitor(
                component, record.components[name], state.logs / f"{name}.log", self._changed
            )
            for name, component in by_name.items()
        }

    async def run(self) -> bool:
        """Run until a signal stops all components, then return True.

        Returns False if all components were stopped because another process took a port before
        its component first ran. The caller then chooses other ports.
        """
        stop_requested = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in STOP:
            loop.add_signal_handler(number, stop_requested.set)
        loop.add_signal_handler(RETRY_SIGNAL, self._retry)
        work: list[Coroutine[Any, Any, Any]] = [
            monitor.run(self._monitors) for monitor in self._monitors.values()
        ]
        work += [self._reconcile(), self._keep_house(stop_requested), stop_requested.wait()]
        tasks = [asyncio.create_task(each) for each in work]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            # A defect ends the supervisor without stopping the components. The service goes on,
            # and the next `up` adopts their processes.
            if isinstance(outcome, Exception) and not isinstance(outcome, PortTakenError):
                raise outcome
        await self._stop()
        return stop_requested.is_set()

    async def _stop(self) -> None:
        """Stop the components in the order of their shutdown policies.

        The shipper stops after the inference service and before PostgreSQL, so it can still ship
        the records of the last requests.
        """
        self._record.stopping = True
        for name in shutdown_policies(self._state):
            await self._monitors[name].stop()
        self._record.supervisor = None
        self._state.endpoints.unlink(missing_ok=True)
        self._changed()

    def _retry(self) -> None:
        for monitor in self._monitors.values():
            monitor.retry.set()

    def _changed(self) -> None:
        # A full disk must not stop the components, so a record that cannot be saved is skipped.
        with contextlib.suppress(OSError):
            save(self._state, self._record)
        self._announce(self._record)

    async def _reconcile(self) -> None:
        """Run the reconcile job regularly, so that the registry follows the serving record.

        Before the first promotion there is no record. The job needs PostgreSQL and MLflow.
        """
        command, environment = components.reconcile_job(self._state, self._config, self._server)
        while True:
            await asyncio.sleep(RECONCILE_SECONDS)
            if self._state.serving_record.exists() and all(
                self._monitors[name].running.is_set() for name in ("postgresql", "mlflow")
            ):
                await run_to_completion(
                    command,
                    environment,
                    self._state.logs / "reconcile.log",
                    self._state.root,
                    seconds=120.0,
                )

    async def _keep_house(self, stop_requested: asyncio.Event) -> None:
        """Truncate large logs, and request a stop when the state folder has been removed."""
        while record_path(self._state).exists():
            with contextlib.suppress(OSError):
                logs.truncate_large_logs(self._state.logs)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)
        # Without the record neither `status` nor `down` would find this supervisor.
        stop_requested.set()
