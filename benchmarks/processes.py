"""The programs that are measured: started with a deadline, asked for what they use, and ended with
all that they started.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import psutil

START_SECONDS = 90.0
STOP_SECONDS = 20.0


class SubjectError(Exception):
    """A program does not start, or does not answer as it should."""


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The process in a session of its own, which ends whole when the block does."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    # What it left behind is in its session still; the number is nobody else's while any of that
    # lives.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(5)


def wait_until(
    check: Callable[[], bool], what: str, seconds: float = START_SECONDS, pause: float = 0.05
) -> None:
    """Raises SubjectError when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise SubjectError(f"{what}: not within {seconds:g} s")
        time.sleep(pause)


def wait_until_answering(
    process: subprocess.Popen[bytes],
    url: str,
    bodies: Path,
    log: Path,
    seconds: float = START_SECONDS,
) -> None:
    """Until the first body of the file is answered with 200 by a program that lives."""
    with bodies.open("rb") as file:
        body = file.readline().rstrip(b"\n")

    def answers() -> bool:
        if process.poll() is not None:
            raise SubjectError(
                f"the program ended with exit code {process.returncode}: {log.read_text()[-1500:]}"
            )
        try:
            return post(url, body)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    wait_until(
        answers,
        f"no answer from {url} (log: {log.read_text()[-1500:] if log.exists() else 'none'})",
        seconds,
    )


def post(url: str, body: bytes, timeout: float = 30.0) -> tuple[int, bytes]:
    """On a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request("POST", parts.path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def tree(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def processor_seconds(pid: int) -> float:
    """User and system time of the process and all below it."""
    total = 0.0
    for process in tree(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def bare_environment(**settings: str) -> dict[str, str]:
    """PATH, HOME and what is given: nothing that a shell may have set, no proxy to the loopback."""
    return {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ
    } | settings
