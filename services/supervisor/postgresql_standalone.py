"""A PostgreSQL server without the supervisor, for tests and benchmarks."""

import signal
import subprocess
import time
from pathlib import Path

from fraudops.errors import StoreDownError
from services.supervisor.logs import last_error_line
from services.supervisor.postgresql import PostgreSQL, environment


def wait_until_ready(
    server: PostgreSQL, process: subprocess.Popen[bytes], log: Path, seconds: float = 30.0
) -> None:
    """Wait until the server accepts connections.

    Raises StoreDownError with the log's last line if it ends or is not ready in time.
    """
    deadline = time.monotonic() + seconds
    while server.connection_error():
        if process.poll() is not None or time.monotonic() > deadline:
            raise StoreDownError(
                f"PostgreSQL did not start: {last_error_line(log) or '(empty log)'} (log: {log})"
            )
        time.sleep(0.05)


def start(server: PostgreSQL, log: Path, **settings: str) -> subprocess.Popen[bytes]:
    """Start a server and wait until its databases exist.

    The caller ends it with `stop`. Raises SettingsError or StoreDownError.
    """
    identity = server.prepare()
    with log.open("ab") as output:
        process = subprocess.Popen(
            identity.wrap(*server.command(**settings)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
    try:
        wait_until_ready(server, process, log)
        server.create_databases()
    except BaseException:
        stop(process)
        raise
    return process


def stop(process: subprocess.Popen[bytes], seconds: float = 15.0) -> None:
    """Stop the server by PostgreSQL's fast shutdown, and kill it after `seconds`.

    A fast shutdown rolls open transactions back and writes everything to disk.
    """
    process.send_signal(signal.SIGINT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
