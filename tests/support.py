"""What tests of several layers share."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx

Result = TypeVar("Result")
# A new connection for each request, so that the kernel deals them to all workers; one TLS context
# for all tests, which costs more than a request.
HTTP = httpx.Client(
    verify=False, trust_env=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0)
)


def eventually(check: Callable[[], Result], seconds: float = 60.0, pause: float = 0.05) -> Result:
    """The first result of `check` that raises nothing; after the deadline its last failure comes
    through.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except Exception:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)


@contextlib.contextmanager
def lifeline(*command: str) -> Iterator[None]:
    """Has `command` run when this process dies within the block, however it dies: whoever waits at
    the other end of a pipe learns of it.
    """
    waiting = ["sh", "-c", 'read -r over || exec "$@"', "lifeline", *command]
    with subprocess.Popen(
        waiting,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as waits:
        try:
            yield
        finally:
            waits.communicate(b"over\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
