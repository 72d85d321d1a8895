"""Messages between the workers of a pod.

Each worker serves a socket in the run folder. A request is one JSON line, and so is its answer.

The path of a socket may have 107 bytes, and that of a state folder may be longer. So the sockets
are reached through the folder's descriptor.
"""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from fraudops.promotion.serving_record import ServingTarget

_NAME = re.compile(r"worker-(?P<pid>[0-9]+)\.sock")
# The name is that of release 0.2.0, which replaces the file at its start.
VERIFIER_SOCKET = "prover.sock"
DEAD = (FileNotFoundError, ConnectionRefusedError)
CUT_OFF = (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError)
FULL_SECONDS = 0.01


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One operation for a worker; `prepare`, `activate` and `drop` need a target.

    `source` is where the bundle came from. A worker drops a prepared model after `seconds`.
    """

    op: Literal["state", "prepare", "activate", "drop", "drain"]
    target: ServingTarget | None = None
    source: str = ""
    seconds: float = 0.0


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the worker serves and has prepared.

    `prepared` maps each digest to where its bundle came from. `error` is why the worker refused
    the operation; `temporary` means that the same operation may succeed later.
    """

    pid: int
    target: ServingTarget | None = None
    prepared: dict[str, str] = {}
    draining: bool = False
    error: str | None = None
    temporary: bool = False


class WorkerShown(msgspec.Struct, frozen=True):
    """What one worker serves, as answers show it; nulls for a worker that does not answer."""

    pid: int
    epoch: int | None
    version: str | None


@dataclass(frozen=True)
class WorkerAnswer:
    """The answer of one worker; `reply` is None when the worker lives but does not answer."""

    pid: int
    reply: Reply | None

    @property
    def fault(self) -> str | None:
        if self.reply is None:
            return f"worker {self.pid} does not answer"
        return f"worker {self.pid}: {self.reply.error}" if self.reply.error else None

    @property
    def is_temporary_fault(self) -> bool:
        return self.reply is None or self.reply.temporary

    @property
    def shown(self) -> WorkerShown:
        if self.reply is None:
            return WorkerShown(self.pid, None, None)
        target = self.reply.target
        return (
            WorkerShown(self.pid, target.epoch, target.version)
            if target
            else WorkerShown(self.pid, 0, None)
        )


class RunFolder:
    """The pod's registered workers and their sockets. Usable after a fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def address(self, pid: int) -> str:
        return f"/proc/self/fd/{self._descriptor}/worker-{pid}.sock"

    def listen_for_verifications(self) -> socket.socket:
        """Return the listener that `request_verification` connects to."""
        (self.path / VERIFIER_SOCKET).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"/proc/self/fd/{self._descriptor}/{VERIFIER_SOCKET}")
        listener.listen()
        return listener

    async def request_verification(self, line: bytes) -> bytes:
        """Return the bundle verifier's answer.

        Raises OSError or IncompleteReadError when the verifier ends without one.
        """
        return await _exchange(f"/proc/self/fd/{self._descriptor}/{VERIFIER_SOCKET}", line)

    def registered(self) -> list[int]:
        return sorted(
            int(match["pid"])
            for match in (_NAME.fullmatch(entry.name) for entry in self.path.iterdir())
            if match
        )

    def forget(self, pid: int) -> None:
        (self.path / f"worker-{pid}.sock").unlink(missing_ok=True)

    async def serve(self, answer: Callable[[Ask], Awaitable[Reply]]) -> asyncio.Server:
        """Register this process: from now on coordinators ask it."""
        pid = os.getpid()
        self.forget(pid)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.address(pid))

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = await reader.readline()
            if line:
                writer.write(
                    msgspec.json.encode(await answer(msgspec.json.decode(line, type=Ask))) + b"\n"
                )
            writer.close()

        return await asyncio.start_unix_server(converse, sock=listener, backlog=128)

    async def ask_all(self, ask: Ask, seconds: float) -> list[WorkerAnswer]:
        """Return the answers of all registered workers.

        Dead workers are left out. A hung worker is included, without an answer.
        """
        answers = await asyncio.gather(*(self._ask(pid, ask, seconds) for pid in self.registered()))
        return [answer for answer in answers if answer]

    async def _ask(self, pid: int, ask: Ask, seconds: float) -> WorkerAnswer | None:
        """Ask one worker; if it closes the connection, ask once more.

        If the worker has died, the second connection is refused.
        """
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._exchange(pid, ask)
                except CUT_OFF:
                    return await self._exchange(pid, ask)
        except DEAD:
            return None
        except (TimeoutError, *CUT_OFF):
            return WorkerAnswer(pid, None)

    async def _exchange(self, pid: int, ask: Ask) -> WorkerAnswer:
        return WorkerAnswer(
            pid,
            msgspec.json.decode(
                await _exchange(self.address(pid), msgspec.json.encode(ask)), type=Reply
            ),
        )


async def _exchange(address: str, line: bytes) -> bytes:
    """Send a line and return the answer; the caller bounds the time."""
    reader, writer = await _connected(address)
    try:
        writer.write(line + b"\n")
        return await reader.readuntil(b"\n")
    finally:
        writer.close()


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with contextlib.ExitStack() as unless_connected:
        connection = unless_connected.enter_context(socket.socket(socket.AF_UNIX))
        connection.setblocking(False)
        await _connect(connection, address)
        streams = await asyncio.open_unix_connection(sock=connection)
        unless_connected.pop_all()
        return streams


async def _connect(connection: socket.socket, address: str) -> None:
    """Connect as soon as the queue of the Unix socket has room.

    The kernel does not wait for room, unlike with TCP, and the event loops disagree about it.
    """
    while True:
        try:
            connection.connect(address)
        except BlockingIOError:
            await asyncio.sleep(FULL_SECONDS)
        else:
            return
