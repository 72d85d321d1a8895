"""One server for all test processes of a run: started by the first that asks for it, ended when the
last of them has gone, however it went.
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

# Whoever uses the server holds a shared lock, which the kernel takes back from the dead; this
# process waits for the lock of its own.
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
    """A server's process, the signal that ends it, and what its users want to know."""

    process: "subprocess.Popen[bytes]"
    ending: signal.Signals
    address: str


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder that the test processes of this run have in common."""
    own = factory.getbasetemp()
    return own.parent if own.name.startswith("popen-") else own


@contextlib.contextmanager
def alone(file: Path) -> Iterator[None]:
    """One process at a time in the block."""
    with file.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def shared(folder: Path, begin: Callable[[], StartedServer]) -> Iterator[str]:
    """The address of the server in `folder`.

    Its starter stays until all others have left, so that nothing runs when the tests have ended.
    """
    folder.mkdir(exist_ok=True)
    users, address, begun = folder / "users", folder / "address", None
    with users.open("a") as place:
        with alone(folder / "door"):
            # Waits while a guardian ends what earlier users have left.
            fcntl.flock(place, fcntl.LOCK_SH)
            if not address.exists():
                begun = begin()
                address.write_text(begun.address)
                told = [users, address, str(begun.process.pid), str(int(begun.ending))]
                guardian = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", GUARDIAN, *told], start_new_session=True
                )
        try:
            yield address.read_text()
        finally:
            fcntl.flock(place, fcntl.LOCK_UN)
            if begun:
                guardian.wait()
                begun.process.wait(END_SECONDS)
