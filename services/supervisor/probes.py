"""Checks whether a component answers. A probe raises ProbeError with the reason."""

import contextlib
import http.client
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import psutil

from fraudops.audit.shipper_status import read_shipper_status, shipper_path
from fraudops.state import State
from services.supervisor.processes import Handle

SECONDS = 4.0
# MLflow's /health also answers 200 while its API refuses every call.
MLFLOW = "/api/2.0/mlflow/experiments/get?experiment_id=0"


class ProbeError(Exception):
    """The component does not work; the message gives the reason."""


def get(url: str, seconds: float = SECONDS) -> tuple[int, bytes]:
    return _request("GET", url, seconds, {})


def drain(url: str, admin_token: str, seconds: float = 2.0) -> None:
    """Make the inference service ask its clients to close their connections.

    So no client is cut off while it sends a request.
    """
    _request(
        "POST",
        f"{url}/drain",
        seconds,
        {"Authorization": f"Bearer {admin_token}", "Content-Type": "application/json"},
        b"{}",
    )


def _request(
    method: str, url: str, seconds: float, headers: dict[str, str], body: bytes | None = None
) -> tuple[int, bytes]:
    """Return the response's status and body. Raises ProbeError when there is no response."""
    address = urlsplit(url)
    # http.client ignores the environment's proxies, which cannot reach this machine.
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=seconds)
    try:
        path = f"{address.path}?{address.query}" if address.query else address.path
        connection.request(method, path, body, {"Connection": "close", **headers})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ProbeError(f"no answer from {url}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def expect_200(process: Handle, url: str, seconds: float = SECONDS) -> None:
    """Require that `process` itself listens at the URL and answers 200. Raises ProbeError."""
    # Without this check, another process that has taken the port would pass for the component.
    if not listens(process, urlsplit(url).port):
        raise ProbeError(f"process {process.pid} does not listen at {url}")
    status, body = get(url, seconds)
    if status != http.client.OK:
        raise ProbeError(f"{url} answers {status}: {body[:200].decode(errors='replace')}")


def listens(process: Handle, port: int | None) -> bool:
    with contextlib.suppress(psutil.Error):
        connections = psutil.Process(process.pid).net_connections("tcp")
        return any(
            connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
            for connection in connections
        )
    return False


def get_json(url: str, seconds: float = SECONDS) -> tuple[int, dict[str, Any]]:
    """Return the response's status and JSON object, empty if the body is no JSON object.

    Raises ProbeError when there is no response.
    """
    status, body = get(url, seconds)
    try:
        content = json.loads(body)
    except ValueError:
        content = {}
    return status, content if isinstance(content, dict) else {}


def expect_shipper_status(state: State, pid: int | None) -> None:
    """Require that the shipper wrote its status file recently. Raises ProbeError.

    The shipper listens on no port, but writes this file every second. With `pid` the file must be
    that process's.
    """
    status = read_shipper_status(state)
    if status is None or pid not in (None, status.pid):
        raise ProbeError(f"{shipper_path(state)} is not written yet")
    if status.stale(datetime.now(UTC)):
        raise ProbeError(f"{shipper_path(state)} was last written at {status.at:%H:%M:%S} UTC")
