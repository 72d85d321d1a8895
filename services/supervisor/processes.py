"""Processes by identities that survive their supervisor: found again, told from a stranger that got
the same pid, ended with all they started.
"""

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

from services.supervisor.logs import last_words


class Handle(msgspec.Struct, frozen=True):
    """A process: pids come again, but not with the same start (clock ticks since the boot) in the
    same boot.
    """

    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> "Handle":
        """Raises ProcessLookupError when there is no such process."""
        return cls(pid, _state_and_start(pid)[1], _boot())

    @property
    def same_boot(self) -> bool:
        return self.boot == _boot()

    @property
    def alive(self) -> bool:
        """Whether it runs; a zombie does not."""
        with contextlib.suppress(ProcessLookupError):
            state, started = _state_and_start(self.pid)
            return self.same_boot and started == self.started and state not in "ZX"
        return False

    @property
    def halted(self) -> bool:
        """Whether somebody stopped it in its tracks (SIGSTOP)."""
        with contextlib.suppress(ProcessLookupError):
            return self.alive and _state_and_start(self.pid)[0] == "T"
        return False


def spawn(
    command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path
) -> subprocess.Popen[bytes]:
    """In a session of its own, so that a terminal's Ctrl-C does not reach it and all that it starts
    can be found by the session's number.
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
    """The living processes of the session that `leader` began, itself included, also after its
    death: the kernel gives its number to nobody meanwhile.
    """
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
    """The leaders of sessions that run a module of ours in that folder: also those whose supervisor
    died before it wrote them down.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if (
                module in process.cmdline()[:5]
                and os.getsid(process.pid) == process.pid
                and Path(process.cwd()) == folder.resolve()
            ):
                found.append(process)
    return found


@dataclass(frozen=True)
class ShutdownPolicy:
    """How a part is asked to stop, how long it may take, which processes are its, and which may be
    though nobody wrote them down.
    """

    signal: signal.Signals
    seconds: float
    members: Callable[[Handle], list[psutil.Process]]
    orphans: Callable[[], list[psutil.Process]]


async def end(process: Handle | None, ending: ShutdownPolicy, seconds: float | None = None) -> bool:
    """Asks the process, if it lives, and kills what is there of the part `seconds` later.

    Whether there was anything to end.
    """
    leaders = [process] if process else []
    for stray in ending.orphans():
        with contextlib.suppress(ProcessLookupError):
            leaders.append(Handle.of(stray.pid))
    ended = [
        await _end_one(leader, ending, ending.seconds if seconds is None else seconds)
        for leader in dict.fromkeys(leaders)
    ]
    return any(ended)


async def _end_one(leader: Handle, ending: ShutdownPolicy, seconds: float) -> bool:
    found = bool(ending.members(leader))
    if leader.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader.pid, ending.signal)
            os.kill(leader.pid, signal.SIGCONT)
        await until(lambda: not leader.alive, seconds)

    def none_left() -> bool:
        remaining = ending.members(leader)
        for process in remaining:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not remaining

    await until(none_left, 5.0)
    return found


async def run_to_end(
    command: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path, seconds: float
) -> int:
    """The exit code of a process that ends by itself; killed with its session after `seconds`, or
    when the caller is cancelled.
    """
    process = spawn(command, environment, log, folder)
    leader = Handle.of(process.pid)
    try:
        await until(lambda: process.poll() is not None, seconds)
    finally:
        if process.poll() is None:
            for member in session_members(leader):
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
    return process.wait()


async def until(check: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time.

    It asks again and again: a process that is nobody's child, or somebody else's, announces its
    end to nobody.
    """
    deadline = time.monotonic() + seconds
    while not (true := check()) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.03)
    return true


def describe_end(child: subprocess.Popen[bytes] | None, log: Path) -> str:
    """In words; of a process that is not our child only its death is known."""
    returncode = child.poll() if child else None
    if returncode is None:
        return "it died"
    if returncode < 0:
        return f"it was killed by {signal.Signals(-returncode).name}"
    return f"it ended with exit code {returncode}, its last words: {last_words(log) or '(none)'} (log: {log})"


def _state_and_start(pid: int) -> tuple[str, int]:
    """Fields 3 and 22 of /proc/PID/stat (proc_pid_stat(5)); the name in field 2 may hold spaces and
    brackets.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError as error:
        raise ProcessLookupError(f"no process {pid}") from error
    return fields[0], int(fields[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
