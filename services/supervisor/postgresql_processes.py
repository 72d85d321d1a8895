"""Finds the running processes of a PostgreSQL server by its data folder."""

import contextlib
from pathlib import Path

import psutil


def server_processes(data: Path) -> list[psutil.Process]:
    """Return the PostgreSQL processes, main and child, that work in this data folder."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == "postgres" and Path(process.cwd()) == data.resolve():
                processes.append(process)
    return processes


def postmasters(data: Path) -> list[psutil.Process]:
    """Return the server processes whose parent is not one of them.

    That is the server's main process, or all that is left of a killed server.
    """
    processes = server_processes(data)
    pids = {process.pid for process in processes}
    return [process for process in processes if _parent(process) not in pids]


def _parent(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.Error):
        return process.ppid()
    return None
