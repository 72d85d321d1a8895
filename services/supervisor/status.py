"""The state of all components, as `fraudops status` reports it.

The record alone may be outdated. So each recorded process is looked up and probed.
"""

import http.client
from typing import Any

from fraudops.audit.shipper_status import read_shipper_status
from fraudops.errors import FraudopsError
from fraudops.promotion.local import FileRecordStore
from fraudops.state import State
from services.supervisor import probes
from services.supervisor.components import shutdown_policies
from services.supervisor.postgresql import OWNER, PostgreSQL
from services.supervisor.processes import Handle
from services.supervisor.record import ComponentRecord, Record, RunConfig, load

SECONDS = 3.0
ORDER = ("inference", "shipper", "mlflow", "postgresql")


def report(state: State) -> dict[str, Any]:
    """Return the object that `fraudops status --json` prints.

    `well` is false when a component does not run, or when the service should serve a model and
    does not.
    """
    record = load(state)
    supervisor = _supervisor(record)
    supervised = supervisor["state"] in ("running", "stopping")
    components = {name: _component(state, record, name, supervised) for name in ORDER}
    if record.run_config and components["inference"]["state"] == "running":
        components["inference"] |= _serving(state, record.run_config)
    if components["shipper"]["state"] == "running":
        components["shipper"] |= _shipping(state, components["shipper"]["reason"])
    well = supervisor["state"] == "running" and all(
        component["state"] == "running" for component in components.values()
    )
    return {
        **components,
        "supervisor": supervisor,
        **_record_notes(state),
        "folder": str(state.root),
        "well": well,
    }


def _record_notes(state: State) -> dict[str, str | None]:
    """Return how the registry's alias differs from the record, and whether what serves is unsigned.

    Neither makes a component fail.
    """
    try:
        record, _ = FileRecordStore(state.serving_record).read()
    except (FraudopsError, OSError) as error:
        return {"alias": str(error), "unsigned": None}
    return {"alias": record.alias_error, "unsigned": record.unsigned}


def _supervisor(record: Record) -> dict[str, Any]:
    if record.supervisor is None:
        return {"pids": [], "state": "stopped", "reason": "`fraudops up` starts everything"}
    if not record.supervisor.alive:
        return {
            "pids": [],
            "state": "dead",
            "reason": "no component is restarted now: run `fraudops up`, which takes over the "
            "running ones",
        }
    return {
        "pids": [record.supervisor.pid],
        "state": "stopping" if record.stopping else "running",
        "reason": None,
    }


def _component(state: State, record: Record, name: str, supervised: bool) -> dict[str, Any]:
    component = record.components.get(name, ComponentRecord())
    process = component.process
    members = shutdown_policies(state)[name].members(process) if process else []
    result: dict[str, Any] = {
        "url": _url(record, name),
        "pids": sorted(member.pid for member in members),
        "state": component.phase,
        "restarts": component.restarts,
        "reason": component.reason,
    }
    # A living supervisor's "starting" or "gave up" is current. Without one, every recorded phase
    # is checked, because the process may have died since.
    if component.phase == "running" or not supervised:
        alive = process is not None and process.alive
        fault = _fault(state, record, name, process) if process and alive else "its process is gone"
        if alive:
            result |= {"state": "failing", "reason": fault} if fault else {"state": "running"}
            # A component that was never restarted has no failure to report.
            result |= {} if fault or component.restarts else {"reason": None}
        elif component.phase != "stopped":
            result |= {"state": "dead", "reason": fault}
    return result


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
    """Return why a living component does not work, or None."""
    config = record.run_config
    if config is None:
        return None
    try:
        if name == "inference":
            probes.expect_200(process, f"{config.inference_url}/health", SECONDS)
        elif name == "mlflow":
            probes.expect_200(process, config.mlflow_url + probes.MLFLOW, SECONDS)
        elif name == "postgresql":
            server = PostgreSQL(state.postgresql, config.postgresql_port)
            return server.connection_error(int(SECONDS))
        else:
            probes.expect_shipper_status(state, None)
    except probes.ProbeError as error:
        return str(error)
    return None


def _serving(state: State, config: RunConfig) -> dict[str, Any]:
    """Return the version that each worker serves.

    A service that is not ready counts as failing once a model has been promoted.
    """
    try:
        status, response = probes.get_json(f"{config.inference_url}/ready", SECONDS)
    except probes.ProbeError as error:
        return {"state": "failing", "reason": str(error), "ready": False, "workers": []}
    serving = {
        "ready": status == http.client.OK,
        "version": response.get("version"),
        "epoch": response.get("epoch"),
        "workers": response.get("workers") or [],
    }
    if serving["ready"]:
        return serving
    serving["reason"] = response.get("detail") or f"/ready answers {status}"
    # Before the first promotion there is no record, and nothing to serve.
    return serving | ({"state": "failing"} if state.serving_record.exists() else {})


def _shipping(state: State, reason: str | None) -> dict[str, Any]:
    status = read_shipper_status(state)
    if status is None:
        return {}
    # The process runs, but nothing reaches the table until a person has repaired it.
    failing = {"state": "failing"} if status.phase == "refused" else {}
    return failing | {
        "doing": status.phase,
        "backlog_bytes": status.backlog_bytes,
        "shipped": status.shipped,
        "reason": status.last_error or reason,
    }
