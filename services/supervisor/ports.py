"""The choice of ports for the components.

Each component gets its last port again, else its usual one, else the next free one. All candidates
lie below the range that the kernel assigns to outgoing connections.

A chosen port must stay free until its component listens, even while another `up` chooses ports.
So each port is claimed before it is used.
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


class PortClaims:
    """The ports claimed by one supervisor. No other supervisor on this machine gets them.

    A claim is a bound Unix socket with an abstract name. Like a TCP port, the name exists once per
    network namespace, for all users together. It needs no file, and the kernel frees it when its
    holder dies.
    """

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def __enter__(self) -> "PortClaims":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for claim in self._sockets.values():
            claim.close()

    def claim(self, port: int) -> bool:
        """Claim the port, and return False if another supervisor has claimed it."""
        if port in self._sockets:
            return True
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            claim.bind(f"\0fraudops-port-{port}")
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        self._sockets[port] = claim
        return True


def choose_ports(
    claims: PortClaims,
    previous: RunConfig | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    living: Collection[str] = (),
) -> RunConfig:
    """Return the user's settings, completed from those of the last `up`.

    `living` names the components that run and hold their ports. Raises SettingsError when the
    port that the user named is taken.
    """
    last = previous or FRESH
    host = host or last.host
    # A port that the user named once is required until the user names another.
    required = port or (last.inference_port if last.port_given else None)
    if required not in (None, last.inference_port):
        # The running inference service must move to the other port, so its port is not kept.
        living = set(living) - {"inference"}
    postgresql = free_port(
        claims, LOOPBACK, last.postgresql_port, POSTGRESQL, held="postgresql" in living
    )
    mlflow = free_port(
        claims, LOOPBACK, last.mlflow_port, MLFLOW, held="mlflow" in living, excluded=(postgresql,)
    )
    if required and "inference" not in living:
        require_free(claims, host, required)
        inference = required
    else:
        held, others = "inference" in living, (postgresql, mlflow)
        inference = free_port(claims, host, last.inference_port, INFERENCE, held, others)
    return RunConfig(
        host=host,
        workers=workers or last.workers,
        inference_port=inference,
        mlflow_port=mlflow,
        postgresql_port=postgresql,
        port_given=required is not None,
    )


def free_port(
    claims: PortClaims,
    host: str,
    last: int,
    usual: int,
    held: bool,
    excluded: Collection[int] = (),
) -> int:
    """Return the last port if its component holds it, else the first free port, claimed.

    Raises SettingsError when none of TRIES ports is free, or when the host is not this machine.
    """
    if held:
        claims.claim(last)
        return last
    # `last` is 0 before the first run. Claimed ports may have no listener yet, so both are checked.
    candidates: list[int] = [last, *range(usual, usual + TRIES)]
    for port in candidates:
        if port and port not in excluded and not is_taken(host, port) and claims.claim(port):
            return port
    raise SettingsError(f"no port from {usual} to {usual + TRIES - 1} is free on {host}")


def is_taken(host: str, port: int) -> bool:
    """Return whether another process listens on the address.

    Raises SettingsError when this process cannot listen there for any other reason.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # Servers set this option too. Without it, connections in TIME_WAIT count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except PermissionError as error:
        raise SettingsError(
            f"only root may open port {port}: choose a port from 1024 on"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return True
        raise SettingsError(f"cannot listen on {host}: {error.strerror or error}") from error
    return False


def require_free(claims: PortClaims, host: str, port: int) -> None:
    """Claim the port. Raises SettingsError when another process uses or has claimed it."""
    if is_taken(host, port):
        raise SettingsError(
            f"port {port} is taken by {owner(port)}: stop it, or choose another with --port"
        )
    if not claims.claim(port):
        raise SettingsError(
            f"port {port} is kept by another fraudops on this machine: stop that one, or choose "
            "another port with --port"
        )


def owner(port: int) -> str:
    """Describe the process that listens on the port, as far as we may see it."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
                and connection.pid
            ):
                process = psutil.Process(connection.pid)
                command = " ".join(process.cmdline())[:120] or process.name()
                return f"process {process.pid} ({command})"
    return "a process of another user"
