"""Runs of a real MLflow server, written through its REST API as a training job would."""

from tests.support.http_client import HTTP

API = "/api/2.0"


def new_run(url: str) -> str:
    """Create a run in the default experiment and return its id."""
    answer = HTTP.post(
        f"{url}{API}/mlflow/runs/create", json={"experiment_id": "0", "start_time": 1}
    ).json()
    return str(answer["run"]["info"]["run_id"])


def put(url: str, run: str, name: str, data: bytes) -> None:
    """Upload `data` as the artifact `name` of a run. Raises httpx.HTTPStatusError."""
    HTTP.put(
        f"{url}{API}/mlflow-artifacts/artifacts/0/{run}/artifacts/{name}", content=data
    ).raise_for_status()


def remove(url: str, run: str, name: str) -> None:
    """Delete the artifact `name` of a run. Raises httpx.HTTPStatusError."""
    HTTP.request(
        "DELETE", f"{url}{API}/mlflow-artifacts/artifacts/0/{run}/artifacts/{name}"
    ).raise_for_status()


def delete_version(url: str, model: str, version: str) -> None:
    """Delete a model version, as a user does in MLflow's own pages."""
    HTTP.request(
        "DELETE",
        f"{url}{API}/mlflow/model-versions/delete",
        json={"name": model, "version": version},
    ).raise_for_status()
