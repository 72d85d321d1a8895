"""What the supervisor writes down (`supervisor.json`, 0600), so that the next one finds the ports,
the settings and the living processes again.
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
    """Kept from one `up` to the next.

    `port_given`: the user named the inference port, so another will not do.
    """

    host: str
    workers: int
    inference_port: int
    mlflow_port: int
    postgresql_port: int
    port_given: bool = False

    @property
    def inference_url(self) -> str:
        """As seen from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return (
            f"http://[{host}]:{self.inference_port}"
            if ":" in host
            else f"http://{host}:{self.inference_port}"
        )

    @property
    def mlflow_url(self) -> str:
        return f"http://127.0.0.1:{self.mlflow_port}"


class ComponentRecord(msgspec.Struct, kw_only=True):
    """`fingerprint`: of command and settings; a living process with another one is not what is
    wanted. `reason`: of the last failure.
    """

    phase: Phase = "stopped"
    process: Handle | None = None
    fingerprint: str = ""
    restarts: int = 0
    reason: str | None = None
    seconds: float = 0.0


class Record(msgspec.Struct, kw_only=True):
    supervisor: Handle | None = None
    stopping: bool = False
    run_config: RunConfig | None = msgspec.field(default=None, name="choices")
    components: dict[str, ComponentRecord] = msgspec.field(default_factory=dict, name="parts")


def record_path(state: State) -> Path:
    return state.root / "supervisor.json"


def load(state: State) -> Record:
    """An empty one when nothing, or nothing readable, is there."""
    try:
        return msgspec.json.decode(record_path(state).read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.MsgspecError):
        return Record()


def save(state: State, record: Record) -> None:
    data = msgspec.json.format(msgspec.json.encode(record))
    write_atomically(record_path(state), data, private=True)


class Holder(msgspec.Struct, frozen=True):
    """Who has the lock, and what for."""

    role: Literal["up", "down"]
    process: Handle


def lock_path(state: State) -> Path:
    return state.locks / "supervisor.lock"


@contextlib.contextmanager
def lock(state: State, role: Literal["up", "down"]) -> Iterator[bool]:
    """One supervisor, or one `down`, a state folder: yields whether it is ours now.

    The kernel lets go of it when we die, however we die.
    """
    lock_path(state).parent.mkdir(parents=True, exist_ok=True)
    with lock_path(state).open("a+b") as file:
        if not try_lock(file.fileno()):
            yield False
            return
        file.truncate(0)
        file.write(msgspec.json.encode(Holder(role, Handle.of(os.getpid()))))
        file.flush()
        yield True


def holder(state: State) -> Holder | None:
    """Who has the lock now: None when nobody."""
    try:
        with lock_path(state).open("rb") as file:
            if try_lock(file.fileno(), shared=True):
                return None
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(lock_path(state).read_bytes(), type=Holder)
    except msgspec.MsgspecError:
        return None
