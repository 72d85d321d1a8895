"""What runs and how it is, seen from outside: what is written down is checked against the processes
and their answers.
"""

import http.client
from typing import Any

from fraudops.audit.shipper_status import read_shipper_status
from fraudops.errors import FraudopsError
from fraudops.promotion.local import FileRecordStore
from fraudops.state import State
from services.supervisor import probes
from services.supervisor.components import endings
from services.supervisor.postgresql import OWNER, PostgreSQL
from services.supervisor.processes import Handle
from services.supervisor.record import ComponentRecord, Record, RunConfig, load

SECONDS = 3.0
ORDER = ("inference", "shipper", "mlflow", "postgresql")


def report(state: State) -> dict[str, Any]:
    """`status --json`.

    `well` is false when something does not run, or should serve a model and does not.
    """
    record = load(state)
    supervisor = _supervisor(record)
    parts = {
        name: _part(state, record, name, supervised=supervisor["state"] in ("running", "stopping"))
        for name in ORDER
    }
    if record.run_config and parts["inference"]["state"] == "running":
        parts["inference"] |= _serving(state, record.run_config)
    if parts["shipper"]["state"] == "running":
        parts["shipper"] |= _shipping(state, parts["shipper"]["reason"])
    well = supervisor["state"] == "running" and all(
        part["state"] == "running" for part in parts.values()
    )
    return {
        **parts,
        "supervisor": supervisor,
        "alias": _alias_error(state),
        "folder": str(state.root),
        "well": well,
    }


def _alias_error(state: State) -> str | None:
    """What the reconciler found of the registry's alias; no part fails because of it."""
    try:
        return FileRecordStore(state.serving_record).read()[0].alias_error
    except (FraudopsError, OSError) as error:
        return str(error)


def _supervisor(record: Record) -> dict[str, Any]:
    if record.supervisor is None:
        return {"pids": [], "state": "stopped", "reason": "`fraudops up` starts everything"}
    if not record.supervisor.alive:
        return {
            "pids": [],
            "state": "dead",
            "reason": "nothing restarts what dies: `fraudops up` takes over what runs",
        }
    return {
        "pids": [record.supervisor.pid],
        "state": "stopping" if record.stopping else "running",
        "reason": None,
    }


def _part(state: State, record: Record, name: str, supervised: bool) -> dict[str, Any]:
    part = record.components.get(name, ComponentRecord())
    pids = (
        [process.pid for process in endings(state)[name].members(part.process)]
        if part.process
        else []
    )
    found: dict[str, Any] = {
        "url": _url(record, name),
        "pids": sorted(pids),
        "state": part.phase,
        "restarts": part.restarts,
        "reason": part.reason,
    }
    if part.phase == "running" or not supervised:
        alive = part.process is not None and part.process.alive
        fault = (
            _fault(state, record, name, part.process)
            if part.process and alive
            else "its process is gone"
        )
        if alive:
            found |= {"state": "failing", "reason": fault} if fault else {"state": "running"}
            found |= {} if fault or part.restarts else {"reason": None}
        elif part.phase != "stopped":
            found |= {"state": "dead", "reason": fault}
    return found


def _url(record: Record, name: str) -> str | None:
    if record.run_config is None:
        return None
    postgresql = f"postgresql://{OWNER}@127.0.0.1:{record.run_config.postgresql_port}/fraudops"
    return {
        "inference": record.run_config.inference_url,
        "mlflow": record.run_config.mlflow_url,
        "postgresql": postgresql,
    }.get(name)


def _fault(state: State, record: Record, name: str, process: Handle) -> str | None:
    """What keeps a living part from working."""
    if record.run_config is None:
        return None
    try:
        if name == "inference":
            probes.expect_200(process, f"{record.run_config.inference_url}/health", SECONDS)
        elif name == "mlflow":
            probes.expect_200(process, record.run_config.mlflow_url + probes.MLFLOW, SECONDS)
        elif name == "postgresql":
            return PostgreSQL(state.postgresql, record.run_config.postgresql_port).complaint(
                int(SECONDS)
            )
        else:
            probes.expect_written(state, None)
    except probes.ProbeError as error:
        return str(error)
    return None


def _serving(state: State, choices: RunConfig) -> dict[str, Any]:
    """Which version each worker serves.

    Not to serve is a failure once a model has been promoted.
    """
    try:
        status, answer = probes.get_json(f"{choices.inference_url}/ready", SECONDS)
    except probes.ProbeError as error:
        return {"state": "failing", "reason": str(error), "ready": False, "workers": []}
    serving = {
        "ready": status == http.client.OK,
        "version": answer.get("version"),
        "epoch": answer.get("epoch"),
        "workers": answer.get("workers") or [],
    }
    if serving["ready"]:
        return serving
    why = answer.get("detail") or f"/ready answers {status}"
    return {**serving, "reason": why} | (
        {"state": "failing"} if state.serving_record.exists() else {}
    )


def _shipping(state: State, reason: str | None) -> dict[str, Any]:
    written = read_shipper_status(state)
    if written is None:
        return {}
    return {
        "doing": written.phase,
        "backlog_bytes": written.backlog_bytes,
        "shipped": written.shipped,
        "reason": written.last_error or reason,
    }
