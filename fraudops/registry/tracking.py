"""The MLflow run of a training: parameters, metrics, plots and the bundle.

MLflow's own client logs it. That client takes seconds to import, so it is imported in functions.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fraudops.errors import StoreDownError

EXPERIMENT = "credit-fraud"
# MLflow refuses a longer parameter, and a longer digest of a dataset.
MAX_PARAMETER = 6000
MAX_DATASET_DIGEST = 36
# The client reads these when it is imported or called. They stop it from sending usage data, from
# printing, and from retrying for minutes.
QUIET = {
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@dataclass(frozen=True)
class RunContent:
    """The content of a run.

    The files of the folder `bundle` become the artifact folder `bundle`. `pictures` maps file names
    to PNGs, which become the artifact folder `pictures`.
    """

    name: str
    parameters: Mapping[str, Any]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    dataset_name: str
    dataset_digest: str
    pictures: Mapping[str, bytes]
    bundle: Path


@contextlib.contextmanager
def logged_run(url: str, shown_url: str, content: RunContent) -> Iterator[str]:
    """Log the run and yield its id; mark the run as failed if the logging or the block fails.

    Raises StoreDownError, which names `shown_url`: that is `url` without credentials.
    """
    # Before the import: the client reads some of these variables while it is imported.
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url)
    with _translated(shown_url):
        run = str(
            client.create_run(
                _experiment(client), run_name=content.name, tags=dict(content.tags)
            ).info.run_id
        )
    try:
        with _translated(shown_url):
            _fill(client, run, content)
        yield run
    except BaseException:
        with contextlib.suppress(StoreDownError), _translated(shown_url):
            client.set_terminated(run, "FAILED")
        raise


def _experiment(client: Any) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        try:
            return str(client.create_experiment(EXPERIMENT))
        except MlflowException:
            # Another training may have created it in the meantime.
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                raise
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def _fill(client: Any, run: str, content: RunContent) -> None:
    from mlflow.entities import Dataset, DatasetInput, Metric, Param

    now = int(time.time() * 1000)
    parameters = [
        Param(name, str(value)[:MAX_PARAMETER]) for name, value in content.parameters.items()
    ]
    client.log_batch(
        run,
        metrics=[Metric(name, value, now, 0) for name, value in content.metrics.items()],
        params=parameters,
    )
    source = json.dumps({"sha256": content.dataset_digest})
    digest = content.dataset_digest[:MAX_DATASET_DIGEST]
    dataset = Dataset(content.dataset_name, digest, "fraudops", source)
    client.log_inputs(run, [DatasetInput(dataset)])
    pictures = content.bundle.with_name("pictures")
    pictures.mkdir()
    for name, data in content.pictures.items():
        (pictures / name).write_bytes(data)
    client.log_artifacts(run, str(pictures), "pictures")
    client.log_artifacts(run, str(content.bundle), "bundle")
    client.set_terminated(run, "FINISHED")


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, requests.RequestException) as error:
        raise StoreDownError(
            f"MLflow at {url} did not take the run ({type(error).__name__}); "
            "nothing is registered: see `fraudops status` and MLflow's log, then train again"
        ) from error
