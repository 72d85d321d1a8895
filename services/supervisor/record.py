"""The supervisor's record (`supervisor.json`, mode 0600) and its lock.

The next supervisor reads the ports, the settings and the living processes from the record.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from fraudops.files import try_lock, write_atomically
from fraudops.state import State
from services.supervisor.processes import Handle

Phase = Literal["waiting", "starting", "running", "restarting", "gave up", "stopping", "stopped"]


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a run, kept from one `up` to the next.

    `port_given` is true if the user named the inference port. Then no other port is chosen.
    """

    host: str
    workers: int
    inference_port: int
    mlflow_port: int
    postgresql_port: int
    port_given: bool = False

    @property
    def inference_url(self) -> str:
        """The service's URL as seen from this machine."""
        # Clients need a real address instead of the wildcard that the service listens on.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        # RFC 3986 requires brackets around an IPv6 address.
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.inference_port}"

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"


class ComponentRecord(msgspec.Struct, kw_only=True):
    """The state of one component.

    `fingerprint` is the digest of its command and settings. A living process with another
    fingerprint is replaced.
    `reason` is that of the last failure.
    `seconds` is the time that the last start took.
    """

    phase: Phase = "stopped"
    process: Handle | None = None
    fingerprint: str = ""
    restarts: int = 0
    reason: str | None = None
    seconds: float = 0.0


class Record(msgspec.Struct, kw_only=True):
    """The content of `supervisor.json`."""

    supervisor: Handle | None = None
    stopping: bool = False
    run_config: RunConfig | None = msgspec.field(default=None, name="choices")
    components: dict[str, ComponentRecord] = msgspec.field(default_factory=dict, name="parts")


def record_path(state: State) -> Path:
    return state.root / "supervisor.json"


def load(state: State) -> Record:
    """Return the saved record, or an empty one if the file is missing or unreadable."""
    try:
        return msgspec.json.decode(record_path(state).read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Record()


def save(state: State, record: Record) -> None:
    data = msgspec.json.format(msgspec.json.encode(record))
    write_atomically(record_path(state), data, private=True)


class LockHolder(msgspec.Struct, frozen=True):
    """The process that holds the lock, and the command that it runs."""

    role: Literal["up", "down"]
    process: Handle


def lock_path(state: State) -> Path:
    return state.locks / "supervisor.lock"


@contextlib.contextmanager
def lock(state: State, role: Literal["up", "down"]) -> Iterator[bool]:
    """Try to take the lock of a state folder, and yield whether that succeeded.

    One supervisor or one `down` holds it at a time. The kernel frees the lock when its holder
    dies, also after SIGKILL.
    """
    lock_path(state).parent.mkdir(parents=True, exist_ok=True)
    # Opened by "a": "w" would erase the present holder's entry before the lock is tried.
    with lock_path(state).open("a+b") as file:
        if not try_lock(file.fileno()):
            yield False
            return
        file.truncate(0)
        file.write(msgspec.json.encode(LockHolder(role, Handle.of(os.getpid()))))
        file.flush()
        yield True


def lock_holder(state: State) -> LockHolder | None:
    """Return the process that holds the lock now, or None if it is free."""
    try:
        # A shared lock tests the state without shutting out another process that tests it too.
        with lock_path(state).open("rb") as file:
            if try_lock(file.fileno(), shared=True):
                return None
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(lock_path(state).read_bytes(), type=LockHolder)
    except msgspec.MsgspecError:
        # The holder has the lock but has not written its entry yet.
        return None
