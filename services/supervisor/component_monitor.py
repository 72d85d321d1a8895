"""Keeps one component running.

The monitor starts the component, probes it, and restarts it when it dies or stops answering. After
TRIES failures in a row it gives up until the user asks for another try.
"""

import asyncio
import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psycopg

from fraudops.errors import FraudopsError
from services.supervisor import ports
from services.supervisor.components import Component
from services.supervisor.probes import ProbeError
from services.supervisor.processes import Handle, describe_exit, spawn, terminate
from services.supervisor.record import ComponentRecord, Phase

TRIES = 5
FIRST_PAUSE_SECONDS = 0.5
READY_SECONDS = 120.0
# A component that fails sooner than this after it was ready counts as a failed start.
SETTLED_SECONDS = 10.0
LOOK_SECONDS = 0.25
PROBE_PAUSE_SECONDS, MISSED_PAUSE_SECONDS = 2.0, 1.0
MISSES = 3
# A component that failed gets little time to stop: it may hang, and users wait for the restart.
FAILED_END_SECONDS = 2.0
# Clients need a moment to close their connections after the call to /drain.
DRAIN_PAUSE_SECONDS = 0.3


class PortTakenError(Exception):
    """Another process holds the port of a component that has never run.

    The supervisor answers it by choosing other ports.
    """


class _FailedError(Exception):
    """One attempt to run the component failed; the message gives the reason."""


class ComponentMonitor:
    """Starts, watches and stops one component.

    `record` is the part of the supervisor's record that this monitor keeps up to date. `changed`
    is called after every change to it.
    """

    def __init__(
        self,
        component: Component,
        record: ComponentRecord,
        log: Path,
        changed: Callable[[], None],
    ) -> None:
        self.component = component
        self.record = record
        self.log = log
        # Set while the component is ready. Components that need this one wait for it.
        self.running = asyncio.Event()
        # Set by the user's request to try again after the monitor gave up.
        self.retry = asyncio.Event()
        self._changed = changed
        self._child: subprocess.Popen[bytes] | None = None
        self._ever_ready = False

    async def run(self, others: Mapping[str, "ComponentMonitor"]) -> None:
        """Keep the component running until the task is cancelled.

        Cancelling leaves the process running, so that `stop` or the next supervisor can use it.
        Raises PortTakenError.
        """
        needed = [others[name] for name in self.component.needs]
        failures, first = 0, True
        while True:
            began = time.monotonic()
            try:
                adopted = first and self._is_adoptable()
                if not adopted:
                    waits = not first or self.component.first_start_waits
                    await self._start(needed if waits else [])
                await self._wait_until_ready(time.monotonic() + READY_SECONDS)
                self._note("running", seconds=0.0 if adopted else time.monotonic() - began)
                began = time.monotonic()
                self.running.set()
                await self._watch(needed)
            except _FailedError as error:
                settled = self.running.is_set() and time.monotonic() - began > SETTLED_SECONDS
                failures = 0 if settled else failures + 1
                await self._recover(str(error), failures)
                failures %= TRIES
            first = False

    async def stop(self) -> None:
        """Stop the component. Call this only after the task of `run` has ended."""
        self.running.clear()
        if self.record.process:
            self._note("stopping")
            await self._prepare_stop()
        await self._end(None)
        self.record.process = None
        self._note("stopped")

    def _is_adoptable(self) -> bool:
        """Return whether an earlier supervisor's process is alive and has the same settings."""
        process = self.record.process
        return (
            process is not None
            and process.alive
            and self.record.fingerprint == self.component.fingerprint
        )

    async def _start(self, needed: Sequence["ComponentMonitor"]) -> None:
        self._note("waiting" if needed else "starting")
        for other in needed:
            await other.running.wait()
        self._note("starting")
        # Orphans of the last run may still hold the port, so they end before the port is checked.
        await self._end(FAILED_END_SECONDS if self._ever_ready else None)
        try:
            self._check_port()
            component = self.component
            command = await component.prepare() if component.prepare else component.command
            self._child = spawn(command, component.environment, self.log, component.folder)
        except (FraudopsError, OSError) as error:
            raise _FailedError(str(error)) from error
        self.record.process = Handle.of(self._child.pid)
        self.record.fingerprint = self.component.fingerprint
        self._changed()

    async def _prepare_stop(self) -> None:
        """Call `before_stop` while the component still answers.

        The probe runs first: on a port that another process has taken over, `before_stop` would
        send that process the admin token.
        """
        if self.component.before_stop and await self._fault() is None:
            with contextlib.suppress(ProbeError):
                await asyncio.to_thread(self.component.before_stop)
                await asyncio.sleep(DRAIN_PAUSE_SECONDS)

    async def _end(self, seconds: float | None) -> None:
        """Terminate all processes of the component within `seconds` (default: its policy's)."""
        await terminate(self.record.process, self.component.shutdown, seconds)
        # poll() reaps the child, which otherwise stays a zombie until the supervisor exits.
        if self._child:
            self._child.poll()

    def _check_port(self) -> None:
        """Check that the component's port is free.

        Raises PortTakenError before the first run and _FailedError afterwards. A component that
        has run keeps its port, because clients know it.
        """
        if self.component.address and ports.is_taken(*self.component.address):
            _, port = self.component.address
            message = f"port {port} is taken by {ports.owner(port)}"
            raise _FailedError(message) if self._ever_ready else PortTakenError(message)

    async def _wait_until_ready(self, deadline: float) -> None:
        while fault := await self._fault():
            self._check_alive()
            if time.monotonic() > deadline:
                raise _FailedError(f"it was not ready within {READY_SECONDS:.0f} s: {fault}")
            await asyncio.sleep(0.1)
        if self.component.when_ready:
            try:
                await asyncio.to_thread(self.component.when_ready)
            except psycopg.Error as error:
                raise _FailedError(str(error).strip()) from error
        self._ever_ready = True

    async def _watch(self, needed: Sequence["ComponentMonitor"]) -> None:
        """Probe until the process dies or stops answering, then raise _FailedError.

        Failed probes do not count while a component that this one needs is down.
        """
        misses, next_probe = 0, 0.0
        while True:
            # Reading /proc is cheap, so a death is seen within LOOK_SECONDS; probes are rarer.
            self._check_alive()
            if time.monotonic() > next_probe:
                fault = await self._fault()
                excused = not all(other.running.is_set() for other in needed)
                misses = 0 if fault is None or excused else misses + 1
                if misses == MISSES:
                    raise _FailedError(f"it stopped answering: {fault}")
                next_probe = time.monotonic() + (
                    MISSED_PAUSE_SECONDS if misses else PROBE_PAUSE_SECONDS
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def _fault(self) -> str | None:
        """Return why the component does not work, or None if it does."""
        process = self.record.process
        if process is None:
            return "it was never started"
        if process.halted:
            return "its process was halted by a signal"
        try:
            await asyncio.to_thread(self.component.probe, process)
        except ProbeError as error:
            return str(error)
        return None

    def _check_alive(self) -> None:
        if self._child:
            self._child.poll()
        if self.record.process is None or not self.record.process.alive:
            raise _FailedError(describe_exit(self._child, self.log))

    async def _recover(self, reason: str, failures: int) -> None:
        """Wait before the next attempt.

        The pause doubles with each failure in a row. After TRIES failures the monitor stops the
        component and waits until the user asks for another try.
        """
        self.running.clear()
        self.record.restarts += 1
        if failures < TRIES:
            self._note("restarting", reason=reason)
            await asyncio.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1) if failures else 0.0)
            return
        await self._end(FAILED_END_SECONDS)
        self.record.process = None
        self._note("gave up", reason=f"{reason} (after {TRIES} tries)")
        self.retry.clear()
        await self.retry.wait()

    def _note(self, phase: Phase, reason: str | None = None, seconds: float | None = None) -> None:
        self.record.phase = phase
        self.record.reason = reason or self.record.reason
        self.record.seconds = self.record.seconds if seconds is None else seconds
        self._changed()
