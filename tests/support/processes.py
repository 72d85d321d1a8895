"""Free ports, and commands that run when the test process dies."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator


@contextlib.contextmanager
def lifeline(*command: str) -> Iterator[None]:
    """Run `command` if this process dies within the block, however it dies."""
    # The shell waits at the other end of a pipe. The kernel closes the pipe when this process dies.
    waiting = ["sh", "-c", 'read -r over || exec "$@"', "lifeline", *command]
    with subprocess.Popen(
        waiting,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as shell:
        try:
            yield
        finally:
            shell.communicate(b"over\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
