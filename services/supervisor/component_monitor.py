"""Keeps one part running: starts it, watches it, starts it again when it dies or no longer answers,
and gives up when that does not help.
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
from services.supervisor.processes import Handle, describe_end, end, spawn
from services.supervisor.record import ComponentRecord, Phase

TRIES = 5
FIRST_PAUSE_SECONDS = 0.5
READY_SECONDS = 120.0
# One that dies sooner after it was ready has failed like one that never was.
SETTLED_SECONDS = 10.0
LOOK_SECONDS = 0.25
PROBE_PAUSE_SECONDS, MISSED_PAUSE_SECONDS = 2.0, 1.0
MISSES = 3
# What fails is not given the time to stop in peace.
FAILED_END_SECONDS = 2.0
GOODBYE_SECONDS = 0.3


class PortTakenError(Exception):
    """Somebody else has got the port of a part that never ran: another port will do as well."""


class _FailedError(Exception):
    """This try has come to nothing; the message says why."""


class ComponentMonitor:
    """One part's life.

    `record` is what is written down of it; `changed` is called when that is no longer so.
    """

    def __init__(
        self, part: Component, record: ComponentRecord, log: Path, changed: Callable[[], None]
    ) -> None:
        self.part = part
        self.record = record
        self.log = log
        self.runs = asyncio.Event()
        self.again = asyncio.Event()
        self._changed = changed
        self._child: subprocess.Popen[bytes] | None = None
        self._ever_ready = False

    async def keep(self, others: Mapping[str, "ComponentMonitor"]) -> None:
        """Until cancelled, which leaves the process as it is. Raises PortTakenError."""
        needed = [others[name] for name in self.part.needs]
        failures, first = 0, True
        while True:
            began = time.monotonic()
            try:
                adopted = first and self._adoptable()
                if not adopted:
                    await self._start([] if first and self.part.at_once else needed)
                await self._become_ready(time.monotonic() + READY_SECONDS)
                self._note("running", seconds=0.0 if adopted else time.monotonic() - began)
                began = time.monotonic()
                self.runs.set()
                await self._watch(needed)
            except _FailedError as error:
                settled = self.runs.is_set() and time.monotonic() - began > SETTLED_SECONDS
                failures = 0 if settled else failures + 1
                await self._recover(str(error), failures)
                failures %= TRIES
            first = False

    async def stop(self) -> None:
        """To be called when `keep` has ended."""
        self.runs.clear()
        if self.record.process:
            self._note("stopping")
            await self._say_goodbye()
        await self._end(None)
        self.record.process = None
        self._note("stopped")

    def _adoptable(self) -> bool:
        """Whether what an earlier supervisor started lives, and is what is wanted now."""
        process = self.record.process
        return (
            process is not None
            and process.alive
            and self.record.fingerprint == self.part.fingerprint
        )

    async def _start(self, needed: Sequence["ComponentMonitor"]) -> None:
        self._note("waiting" if needed else "starting")
        for other in needed:
            await other.runs.wait()
        self._note("starting")
        await self._end(FAILED_END_SECONDS if self._ever_ready else None)
        try:
            self._refuse_taken_port()
            command = await self.part.prepare() if self.part.prepare else self.part.command
            self._child = spawn(command, self.part.environment, self.log, self.part.folder)
        except (FraudopsError, OSError) as error:
            raise _FailedError(str(error)) from error
        self.record.process = Handle.of(self._child.pid)
        self.record.fingerprint = self.part.fingerprint
        self._changed()

    async def _say_goodbye(self) -> None:
        """To whoever answers as the part: nobody else is told what is said then."""
        if self.part.before_stop and await self._fault() is None:
            with contextlib.suppress(ProbeError):
                await asyncio.to_thread(self.part.before_stop)
                await asyncio.sleep(GOODBYE_SECONDS)

    async def _end(self, seconds: float | None) -> None:
        """Whatever there is of the part, in the time that it is usually given or in `seconds`."""
        await end(self.record.process, self.part.shutdown, seconds)
        if self._child:
            self._child.poll()

    def _refuse_taken_port(self) -> None:
        if self.part.address and ports.is_taken(*self.part.address):
            _, port = self.part.address
            if not self._ever_ready:
                raise PortTakenError(f"port {port} is taken by {ports.owner(port)}")
            raise _FailedError(f"port {port} is taken by {ports.owner(port)}")

    async def _become_ready(self, deadline: float) -> None:
        while fault := await self._fault():
            self._refuse_dead()
            if time.monotonic() > deadline:
                raise _FailedError(f"it was not ready in {READY_SECONDS:.0f} s: {fault}")
            await asyncio.sleep(0.1)
        if self.part.when_ready:
            try:
                await asyncio.to_thread(self.part.when_ready)
            except psycopg.Error as error:
                raise _FailedError(str(error).strip()) from error
        self._ever_ready = True

    async def _watch(self, needed: Sequence["ComponentMonitor"]) -> None:
        """Raises when it died or stopped answering, which is not held against it while what it
        needs is away.
        """
        misses, next_probe = 0, 0.0
        while True:
            self._refuse_dead()
            if time.monotonic() > next_probe:
                fault = await self._fault()
                excused = not all(other.runs.is_set() for other in needed)
                misses = 0 if fault is None or excused else misses + 1
                if misses == MISSES:
                    raise _FailedError(f"it stopped answering: {fault}")
                next_probe = time.monotonic() + (
                    MISSED_PAUSE_SECONDS if misses else PROBE_PAUSE_SECONDS
                )
            await asyncio.sleep(LOOK_SECONDS)

    async def _fault(self) -> str | None:
        process = self.record.process
        if process is None:
            return "it was never started"
        if process.halted:
            return "its process was halted by a signal"
        try:
            await asyncio.to_thread(self.part.probe, process)
        except ProbeError as error:
            return str(error)
        return None

    def _refuse_dead(self) -> None:
        if self._child:
            self._child.poll()
        if self.record.process is None or not self.record.process.alive:
            raise _FailedError(describe_end(self._child, self.log))

    async def _recover(self, reason: str, failures: int) -> None:
        """Waits as long as is wise after so many failures in a row; after the last one until
        somebody asks for another try.
        """
        self.runs.clear()
        self.record.restarts += 1
        if failures < TRIES:
            self._note("restarting", reason=reason)
            await asyncio.sleep(FIRST_PAUSE_SECONDS * 2 ** (failures - 1) if failures else 0.0)
            return
        await self._end(FAILED_END_SECONDS)
        self.record.process = None
        self._note("gave up", reason=f"{reason} (after {TRIES} tries)")
        self.again.clear()
        await self.again.wait()

    def _note(self, phase: Phase, reason: str | None = None, seconds: float | None = None) -> None:
        self.record.phase = phase
        self.record.reason = reason or self.record.reason
        self.record.seconds = self.record.seconds if seconds is None else seconds
        self._changed()
