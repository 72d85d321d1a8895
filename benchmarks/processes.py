"""The measured programs: start with a deadline, measure their use, and end them all."""

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
NO_HEADERS: Mapping[str, str] = {}


class SubjectError(Exception):
    """A program does not start, or gives a wrong answer."""


@contextlib.contextmanager
def running(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the command in a new session, and end the whole session with the block."""
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
    # Its children may live on in its session. The kernel gives the number of a process group to no
    # other process while one of them lives.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(5)


def wait_until(
    check: Callable[[], bool], what: str, seconds: float = START_SECONDS, pause: float = 0.05
) -> None:
    """Wait for the check to become true. Raises SubjectError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            raise SubjectError(f"{what}, after {seconds:g} s")
        time.sleep(pause)


def wait_until_answering(
    process: subprocess.Popen[bytes],
    url: str,
    bodies: Path,
    log: Path,
    seconds: float = START_SECONDS,
    headers: Mapping[str, str] = NO_HEADERS,
) -> None:
    """Wait until the program answers the first body of the file with 200.

    Raises SubjectError if the program ends, or after `seconds`.
    """
    with bodies.open("rb") as file:
        body = file.readline().rstrip(b"\n")

    def answers() -> bool:
        if process.poll() is not None:
            raise SubjectError(
                f"the program ended with exit code {process.returncode}: {log.read_text()[-1500:]}"
            )
        try:
            return post(url, body, headers=headers)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    wait_until(
        answers,
        f"no answer from {url} (log: {log.read_text()[-1500:] if log.exists() else 'none'})",
        seconds,
    )


def post(
    url: str, body: bytes, timeout: float = 30.0, headers: Mapping[str, str] = NO_HEADERS
) -> tuple[int, bytes]:
    """Post a body over a new connection and return status and body of the answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    try:
        connection.request(
            "POST", parts.path, body, {"Content-Type": "application/json", **headers}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def tree(pid: int) -> list[psutil.Process]:
    """Return the process and all its descendants."""
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def processor_seconds(pid: int) -> float:
    """Return user and system time of the process and all its descendants."""
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
    """Return PATH, HOME, TMPDIR and `settings`, without the shell's other variables.

    A proxy of the shell would catch calls to the loopback.
    """
    return {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ
    } | settings
