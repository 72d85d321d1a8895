"""Which ports the parts get: as last time, else the usual one, else the next that is free, below those that the kernel lends to outgoing connections."""

import contextlib
import errno
import socket
from collections.abc import Collection

import psutil

from fraudops.errors import SettingsError
from services.supervisor.record import Choices

LOOPBACK = "127.0.0.1"
INFERENCE, MLFLOW, POSTGRESQL = 8000, 5000, 15432
TRIES = 500
FRESH = Choices(host=LOOPBACK, workers=2, inference_port=0, mlflow_port=0, postgresql_port=0)


def choose(previous: Choices | None, host: str | None, port: int | None, workers: int | None, living: Collection[str] = ()) -> Choices:
    """What the user asked for, else what was kept. `living`: the parts that hold their ports. Raises SettingsError when a port asked for is taken."""
    kept = previous or FRESH
    host = host or kept.host
    postgresql = kept.postgresql_port if "postgresql" in living else free_port(LOOPBACK, kept.postgresql_port, POSTGRESQL)
    mlflow = kept.mlflow_port if "mlflow" in living else free_port(LOOPBACK, kept.mlflow_port, MLFLOW, not_these=(postgresql,))
    given = port or (kept.inference_port if kept.port_given else None)
    if "inference" in living and given in (None, kept.inference_port):
        inference = kept.inference_port
    elif given:
        refuse_taken(host, given)
        inference = given
    else:
        inference = free_port(host, kept.inference_port, INFERENCE, not_these=(postgresql, mlflow))
    return Choices(
        host=host,
        workers=workers or kept.workers,
        inference_port=inference,
        mlflow_port=mlflow,
        postgresql_port=postgresql,
        port_given=given is not None,
    )


def free_port(host: str, kept: int, usual: int, not_these: Collection[int] = ()) -> int:
    """Raises SettingsError when none of some hundreds is free, or the host is not this machine's."""
    candidates: list[int] = [kept, *range(usual, usual + TRIES)]
    for port in candidates:
        if port and port not in not_these and not is_taken(host, port):
            return port
    raise SettingsError(f"no port of {usual} to {usual + TRIES - 1} is free on {host}")


def is_taken(host: str, port: int) -> bool:
    """Raises SettingsError when the address cannot be listened on at all."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError as error:
        raise SettingsError(f"port {port} may be opened by root only: choose one from 1024 on") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise SettingsError(f"cannot listen on {host}: {error.strerror or error}") from error
    return False


def refuse_taken(host: str, port: int) -> None:
    """Raises SettingsError naming the owner when somebody listens there."""
    if is_taken(host, port):
        raise SettingsError(f"port {port} is taken by {owner(port)}: stop it, or choose another with --port")


def owner(port: int) -> str:
    """Who listens on a port, as far as we may know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN and connection.pid:
                process = psutil.Process(connection.pid)
                return f"process {process.pid} ({' '.join(process.cmdline())[:120] or process.name()})"
    return "a process of another user"
