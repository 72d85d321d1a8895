"""Processes that can be identified and stopped after their supervisor has died."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from services.supervisor.logs import last_error_line


class Handle(msgspec.Struct, frozen=True):
    """The identity of one process, which no later process can have.

    The kernel reuses a pid, but never with the same start time (in clock ticks since the boot)
    within one boot.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Handle":
        """Return the identity of a process. Raises ProcessLookupError when it does not exist."""
        return cls(pid, _state_and_start(pid)[1], _boot())

    @property
    def same_boot(self) -> bool:
        return self.boot == _boot()

    @property
    def alive(self) -> bool:
        """True while the process runs; a zombie does not."""
        with contextlib.suppress(ProcessLookupError):
            state, started = _state_and_start(self.pid)
            return self.same_boot and started == self.started and state not in "ZX"
        return False

    @property
    def halted(self) -> bool:
        """True if the process was stopped by a signal, for example SIGSTOP."""
        with contextlib.suppress(ProcessLookupError):
            return self.alive and _state_and_start(self.pid)[0] == "T"
        return False


def spawn(
    command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path
) -> subprocess.Popen[bytes]:
    """Start a process as the leader of a new session.

    A terminal's Ctrl-C does not reach the session. All descendants can be found by the session id.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )


def session_members(leader: Handle) -> list[psutil.Process]:
    """Return the living processes of the session that `leader` started, including `leader`.

    The session outlives its leader. While members live, the kernel does not reuse the leader's
    pid, because it is the session's id.
    """
    # A living process with this pid and another start time began another session.
    with contextlib.suppress(ProcessLookupError):
        if Handle.of(leader.pid) != leader:
            return []
    if not leader.same_boot:
        return []
    members = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) == leader.pid and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process)
    return members


def programs(module: str, folder: Path) -> list[psutil.Process]:
    """Return the session leaders that run a module of fraudops in that folder.

    This finds the processes whose supervisor died before it recorded them.
    """
    leaders = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if (
                # The module is the fourth word of our commands: python -P -m MODULE.
                module in process.cmdline()[:5]
                and os.getsid(process.pid) == process.pid
                and Path(process.cwd()) == folder.resolve()
            ):
                leaders.append(process)
    return leaders


@dataclass(frozen=True)
class ShutdownPolicy:
    """The way to stop one component.

    `signal` asks its leader to stop, within `seconds`.
    `members` returns all processes of the component with this leader.
    `orphans` finds leaders of the component that no record names.
    """

    signal: signal.Signals
    seconds: float
    members: Callable[[Handle], list[psutil.Process]]
    orphans: Callable[[], list[psutil.Process]]


async def terminate(
    process: Handle | None, policy: ShutdownPolicy, seconds: float | None = None
) -> bool:
    """Stop a component and its orphans, and kill what is left after `seconds`.

    `seconds` defaults to the policy's. Returns whether anything was running.
    """
    leaders = [process] if process else []
    for orphan in policy.orphans():
        with contextlib.suppress(ProcessLookupError):
            leaders.append(Handle.of(orphan.pid))
    timeout = policy.seconds if seconds is None else seconds
    running = [await _terminate_one(leader, policy, timeout) for leader in dict.fromkeys(leaders)]
    return any(running)


async def _terminate_one(leader: Handle, policy: ShutdownPolicy, seconds: float) -> bool:
    running = bool(policy.members(leader))
    if leader.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader.pid, policy.signal)
            # A halted process does not handle the signal until it continues.
            os.kill(leader.pid, signal.SIGCONT)
        await wait_until(lambda: not leader.alive, seconds)

    def kill_remaining() -> bool:
        remaining = policy.members(leader)
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not remaining

    # Repeated, because a member may fork between the listing and its kill.
    await wait_until(kill_remaining, 5.0)
    return running


async def run_to_completion(
    command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path, seconds: float
) -> int:
    """Run a command and return its exit code.

    Its whole session is killed after `seconds`, or when the caller is cancelled.
    """
    process = spawn(command, environment, log, folder)
    leader = Handle.of(process.pid)
    try:
        await wait_until(lambda: process.poll() is not None, seconds)
    finally:
        if process.poll() is None:
            for member in session_members(leader):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
    return process.wait()


async def wait_until(check: Callable[[], bool], seconds: float) -> bool:
    """Poll until the check is true, and return whether that happened in time.

    Polling is necessary: the kernel reports the end of a process only to its parent, and an
    adopted process is not our child.
    """
    deadline = time.monotonic() + seconds
    while not (true := check()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.03)
    return true


def describe_exit(child: subprocess.Popen[bytes] | None, log: Path) -> str:
    """Describe how a process ended. For an adopted process only the fact is known."""
    returncode = child.poll() if child else None
    if returncode is None:
        return "it died"
    if returncode < 0:
        return f"it was killed by {signal.Signals(-returncode).name}"
    last = last_error_line(log) or "(nothing)"
    return f"it ended with exit code {returncode}; its log ends with: {last} (log: {log})"


def _state_and_start(pid: int) -> tuple[str, int]:
    """Return fields 3 and 22 of /proc/PID/stat, see proc_pid_stat(5).

    Raises ProcessLookupError when the process does not exist.
    """
    try:
        # Field 2, the name in brackets, may itself contain spaces and brackets.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    return fields[0], int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
