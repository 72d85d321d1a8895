"""The process that `tests.support.warm_start` starts: it imports packages once, then forks.

Each request is one message on standard input, with two open files: the output of the program and
the channel that learns its process id and its return code.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import socket
import sys
from pathlib import Path

# What the service and the shipper import of other projects. `prometheus_client` is missing, because
# it reads its variables when it is imported.
PACKAGES = (
    "asyncpg",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.serialization",
    "dotenv",
    "gunicorn.app.base",
    "gunicorn.arbiter",
    "httptools",
    "httpx",
    "msgspec",
    "numpy",
    "numpy.linalg",
    "pydantic_settings",
    "uuid_utils",
    "uvicorn.protocols.http.httptools_impl",
    "uvicorn.server",
    "uvicorn_worker",
    "uvloop",
    "yaml",
)
MESSAGE_BYTES = 1 << 18


class Program:
    """What a request asks for: arguments as those of `python`, environment and folder."""

    def __init__(self, message: bytes) -> None:
        request = json.loads(message)
        self.arguments: list[str] = request["arguments"]
        self.environment: dict[str, str] = request["environment"]
        self.folder: str = request["folder"]

    def prepare(self, output: int) -> None:
        """Let this process look as if `python` had just started."""
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, file in enumerate((nothing, output, output)):
            os.dup2(file, number)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))

    def run(self) -> None:
        option, program, *more = self.arguments
        sys.argv = [option, *more]
        if option == "-c":
            exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)


def serve(control: socket.socket) -> tuple[Program, int] | None:
    """Fork for each request, until the other end of the channel is closed.

    Returns the program and the descriptor of its output in a child, and None in the server.
    """
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data:
                    selector.unregister(key.fd)
                    _report_end(key.fd, *key.data)
                    continue
                message, files, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 2)
                if not message:
                    return None
                output, channel = files
                program = Program(message)
                pid = os.fork()
                if not pid:
                    return program, output
                os.close(output)
                os.write(channel, b"%d\n" % pid)
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, channel))


def _report_end(descriptor: int, pid: int, channel: int) -> None:
    _, status = os.waitpid(pid, 0)
    # A test that has ended does not ask for the return code.
    with contextlib.suppress(BrokenPipeError):
        os.write(channel, b"%d\n" % os.waitstatus_to_exitcode(status))
    os.close(channel)
    os.close(descriptor)


def main() -> None:
    for name in PACKAGES:
        importlib.import_module(name)
    # A fork copies no other thread.
    assert len(list(Path("/proc/self/task").iterdir())) == 1
    # A collection in a child would write to the pages of all that is imported here, and copy them.
    gc.freeze()
    control = socket.socket(fileno=os.dup(0))
    if begun := serve(control):
        control.detach()
        program, output = begun
        program.prepare(output)
        program.run()


if __name__ == "__main__":
    main()
