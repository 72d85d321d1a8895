"""One server for all test processes of a run.

The first process that needs it starts it. It ends when the last user has gone, even if that user
was killed.
"""

import contextlib
import fcntl
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Every user of the server holds a shared lock, and the kernel releases the lock of a dead process.
# The guardian gets the exclusive lock when no user is left.
GUARDIAN = """
import fcntl, os, sys
users, address, pid, number = sys.argv[1:]
with open(users) as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    os.unlink(address)
    os.kill(int(pid), int(number))
"""
END_SECONDS = 20


@dataclass(frozen=True)
class StartedServer:
    """A server's process, the signal that ends it, and the address for its users."""

    process: "subprocess.Popen[bytes]"
    ending: signal.Signals
    address: str


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the test processes of this run share."""
    own = factory.getbasetemp()
    # pytest-xdist gives each test process the folder popen-gwN below the run's folder.
    return own.parent if own.name.startswith("popen-") else own


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """Let one process at a time into the block."""
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def shared(folder: Path, begin: Callable[[], StartedServer]) -> Iterator[str]:
    """The address of the server in `folder`, which the first user starts.

    The process that started it stays until all others have left. Nothing runs after the tests.
    """
    folder.mkdir(exist_ok=True)
    users, address, started = folder / "users", folder / "address", None
    with users.open("a") as users_lock:
        with alone(folder / "entry"):
            # Waits while a guardian ends the server of earlier users.
            fcntl.flock(users_lock, fcntl.LOCK_SH)
            if not address.exists():
                started = begin()
                address.write_text(started.address)
                arguments = [users, address, str(started.process.pid), str(int(started.ending))]
                guardian = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", GUARDIAN, *arguments], start_new_session=True
                )
        try:
            yield address.read_text()
        finally:
            fcntl.flock(users_lock, fcntl.LOCK_UN)
            if started:
                guardian.wait()
                started.process.wait(END_SECONDS)
