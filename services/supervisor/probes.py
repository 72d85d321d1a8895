"""Whether a part answers. A probe raises ProbeError saying what it met."""

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
# MLflow's /health answers also where its API refuses everybody.
MLFLOW = "/api/2.0/mlflow/experiments/get?experiment_id=0"


class ProbeError(Exception):
    pass


def get(url: str, seconds: float = SECONDS) -> tuple[int, bytes]:
    return _request("GET", url, seconds, {})


def drain(url: str, admin_token: str, seconds: float = 2.0) -> None:
    """Has the inference service ask every client to leave, so that none is cut off while it is
    sending.
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
    """Status and body of the answer, through no proxy. Raises ProbeError when there is none."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=seconds)
    try:
        path = f"{address.path}?{address.query}" if address.query else address.path
        connection.request(method, path, body, {"Connection": "close", **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise ProbeError(f"no answer from {url}: {error or type(error).__name__}") from error
    finally:
        connection.close()


def expect_200(process: Handle, url: str, seconds: float = SECONDS) -> None:
    """From `process`, which must itself listen there: whoever else has got its port may answer as
    well.
    """
    if not listens(process, urlsplit(url).port):
        raise ProbeError(f"process {process.pid} does not listen at {url}")
    status, body = get(url, seconds)
    if status != http.client.OK:
        raise ProbeError(f"{url} answers {status}: {body[:200].decode(errors='replace')}")


def listens(process: Handle, port: int | None) -> bool:
    with contextlib.suppress(psutil.Error):
        sockets = psutil.Process(process.pid).net_connections("tcp")
        return any(
            each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets
        )
    return False


def get_json(url: str, seconds: float = SECONDS) -> tuple[int, dict[str, Any]]:
    """An answer that is no JSON object counts as an empty one."""
    status, body = get(url, seconds)
    try:
        content = json.loads(body)
    except ValueError:
        content = {}
    return status, content if isinstance(content, dict) else {}


def expect_written(state: State, pid: int | None) -> None:
    """The shipper listens nowhere; it writes down each second what it does.

    `pid`: who must have written, None for whoever it was.
    """
    written = read_shipper_status(state)
    if written is None or pid not in (None, written.pid):
        raise ProbeError(f"{shipper_path(state)} is not written yet")
    if written.stale(datetime.now(UTC)):
        raise ProbeError(f"{shipper_path(state)} was last written at {written.at:%H:%M:%S} UTC")
