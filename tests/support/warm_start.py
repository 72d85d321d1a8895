"""Processes of Python whose imports were made once for all tests of a test process.

A start of the service spends a second of processor time, and four fifths of it on imports of other
projects. A server imports these once, and each program begins as a fork of it. Code of this project
is imported by each program itself. A test of imports or of memory starts `python`.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import BinaryIO

ROOT = Path(__file__).parents[2]


class WarmProcess:
    """A program that began as a fork, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, arguments: Sequence[str], channel: socket.socket) -> None:
        self.args, self._channel = list(arguments), channel.makefile("rb", buffering=0)
        channel.close()
        self.pid = int(self._channel.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the return code. Raises subprocess.TimeoutExpired."""
        code = self._ended_within(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        if self.returncode is None and select.select([self._channel], [], [], seconds)[0]:
            self.returncode = int(self._channel.readline())
            self._channel.close()
        return self.returncode


Process = subprocess.Popen[bytes] | WarmProcess


def start_python(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    output: BinaryIO,
    folder: Path = ROOT,
) -> WarmProcess:
    """Start `python ARGUMENTS`, which begin with -m or -c, with both outputs into one file."""
    request = {"arguments": arguments, "environment": dict(environment), "folder": str(folder)}
    ours, theirs = socket.socketpair()
    with theirs:
        files = [output.fileno(), theirs.fileno()]
        socket.send_fds(_server(), [json.dumps(request).encode()], files)
    return WarmProcess(arguments, ours)


@cache
def _server() -> socket.socket:
    """Start the server and return its end of the control channel. It ends with this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        # OpenBLAS starts its threads when NumPy is imported.
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_start_server"],
            cwd=ROOT,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
            stdin=theirs,
        )

    def end() -> None:
        ours.close()
        process.wait(20)

    atexit.register(end)
    return ours
