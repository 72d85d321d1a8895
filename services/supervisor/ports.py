"""Which ports the parts get: as last time, else the usual one, else the next that is free, below
those that the kernel lends to outgoing connections.

What is free must stay free until its part listens, also while another `up` looks for ports, so
each one chosen is claimed first.
"""

import contextlib
import errno
import socket
from collections.abc import Collection
from types import TracebackType

import psutil

from fraudops.errors import SettingsError
from services.supervisor.record import RunConfig

LOOPBACK = "127.0.0.1"
INFERENCE, MLFLOW, POSTGRESQL = 8000, 5000, 15432
TRIES = 500
FRESH = RunConfig(host=LOOPBACK, workers=2, inference_port=0, mlflow_port=0, postgresql_port=0)


class Claims:
    """The ports of one supervisor, which no other on this machine gets while it lives.

    A claim is a Unix socket's abstract name: the kernel gives it once in each network (as it
    does the port itself), to whatever user, without a file, and takes it back when its holder
    dies.
    """

    def __init__(self) -> None:
        self._held: dict[int, socket.socket] = {}

    def __enter__(self) -> "Claims":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for claim in self._held.values():
            claim.close()

    def take(self, port: int) -> bool:
        """False when another supervisor has it."""
        if port in self._held:
            return True
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0fraudops-port-{port}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._held[port] = claim
        return True


def choose(
    claims: Claims,
    previous: RunConfig | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    living: Collection[str] = (),
) -> RunConfig:
    """What the user asked for, else what was kept.

    `living`: the parts that hold their ports. Raises SettingsError when a port asked for is taken.
    """
    kept = previous or FRESH
    host = host or kept.host
    given = port or (kept.inference_port if kept.port_given else None)
    living = set(living) - ({"inference"} if given not in (None, kept.inference_port) else set())
    postgresql = free_port(
        claims, LOOPBACK, kept.postgresql_port, POSTGRESQL, held="postgresql" in living
    )
    mlflow = free_port(
        claims, LOOPBACK, kept.mlflow_port, MLFLOW, held="mlflow" in living, not_these=(postgresql,)
    )
    if given and "inference" not in living:
        refuse_taken(claims, host, given)
        inference = given
    else:
        inference = free_port(
            claims,
            host,
            kept.inference_port,
            INFERENCE,
            held="inference" in living,
            not_these=(postgresql, mlflow),
        )
    return RunConfig(
        host=host,
        workers=workers or kept.workers,
        inference_port=inference,
        mlflow_port=mlflow,
        postgresql_port=postgresql,
        port_given=given is not None,
    )


def free_port(
    claims: Claims, host: str, kept: int, usual: int, held: bool, not_these: Collection[int] = ()
) -> int:
    """The kept one if its part holds it, else the first that is free, claimed.

    Raises SettingsError when none of some hundreds is, or the host is not ours.
    """
    if held:
        claims.take(kept)
        return kept
    candidates: list[int] = [kept, *range(usual, usual + TRIES)]
    for port in candidates:
        if port and port not in not_these and not is_taken(host, port) and claims.take(port):
            return port
    raise SettingsError(f"no port of {usual} to {usual + TRIES - 1} is free on {host}")


def is_taken(host: str, port: int) -> bool:
    """Raises SettingsError when the address cannot be listened on at all."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError as error:
        raise SettingsError(
            f"port {port} may be opened by root only: choose one from 1024 on"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise SettingsError(f"cannot listen on {host}: {error.strerror or error}") from error
    return False


def refuse_taken(claims: Claims, host: str, port: int) -> None:
    """Raises SettingsError naming the owner when somebody listens there, or is about to."""
    if is_taken(host, port):
        raise SettingsError(
            f"port {port} is taken by {owner(port)}: stop it, or choose another with --port"
        )
    if not claims.take(port):
        raise SettingsError(
            f"port {port} is kept by another fraudops on this machine: stop that, or choose another with --port"
        )


def owner(port: int) -> str:
    """Who listens on a port, as far as we may know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
                and connection.pid
            ):
                process = psutil.Process(connection.pid)
                return (
                    f"process {process.pid} ({' '.join(process.cmdline())[:120] or process.name()})"
                )
    return "a process of another user"
