"""`fraudops train`, once as a program, against a real MLflow server."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fraudops.datasets import generate
from fraudops.errors import StoreDownError
from fraudops.model.verification import verify_bundle
from fraudops.registry import Registry
from fraudops.registry.tracking import RunContent, logged_run
from fraudops.schema import load_schema
from jobs.train import command, git_revision
from tests.support.commands import CommandResult, bare_environment, call
from tests.support.http_client import HTTP
from tests.support.processes import free_port

_numbers = itertools.count()
SMALL_SCHEMA = """
name: five-columns
label: is_fraud
time: seconds
amount: euros
features:
  - {name: euros, minimum: 0, maximum: 1000000}
  - {name: age_days, minimum: -500, maximum: 500}
  - {name: velocity, minimum: -500, maximum: 500}
  - {name: distance, minimum: -500, maximum: 500}
  - {name: risk, minimum: -500, maximum: 500}
"""


@dataclass(frozen=True)
class Training:
    """One finished run of the command."""

    model: str
    done: CommandResult

    @property
    def answer(self) -> dict[str, Any]:
        assert self.done.returncode == 0, self.done.stderr
        return dict(json.loads(self.done.stdout))


def new_model() -> str:
    return f"train-{next(_numbers)}"


def run_training(url: str, *arguments: str, **more: str) -> Training:
    model = new_model()
    settings = {"MLFLOW_TRACKING_URI": url, "FRAUDOPS_MODEL_NAME": model}
    environment = {**bare_environment(), **settings, **more}
    return Training(model, call("fraudops train", command, *arguments, **environment))


def run_program(url: str, *arguments: str, cwd: Path) -> Training:
    """Run `fraudops train` as its own process, as a user does."""
    model = new_model()
    environment = {**bare_environment(), "MLFLOW_TRACKING_URI": url, "FRAUDOPS_MODEL_NAME": model}
    line = [str(Path(sys.executable).with_name("fraudops")), "train", *arguments]
    done = subprocess.run(
        line, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    return Training(model, CommandResult(done.returncode, done.stdout, done.stderr))


def mlflow_run(url: str, run_id: str) -> dict[str, Any]:
    answer = (
        HTTP.get(f"{url}/api/2.0/mlflow/runs/get", params={"run_id": run_id})
        .raise_for_status()
        .json()
    )
    return dict(answer["run"])


def artifacts(url: str, run_id: str, folder: str) -> set[str]:
    answer = (
        HTTP.get(f"{url}/api/2.0/mlflow/artifacts/list", params={"run_id": run_id, "path": folder})
        .raise_for_status()
        .json()
    )
    return {Path(file["path"]).name for file in answer.get("files", [])}


@pytest.fixture(scope="module")
def training(mlflow_url: str, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """Train on the packaged sample with the default settings, in an empty folder."""
    return run_program(mlflow_url, "--json", cwd=tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def second_schema(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the paths of rows with five other columns and of their schema: (data, schema)."""
    folder = tmp_path_factory.mktemp("second-schema")
    (folder / "schema.yaml").write_text(SMALL_SCHEMA)
    generate(
        4000, seed=3, schema=load_schema(folder / "schema.yaml"), fraud_rate=0.03
    ).dataset.frame.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv", folder / "schema.yaml"


def test_training_registers_a_version_whose_bundle_verifies_under_its_tags(
    training: Training, mlflow_url: str, tmp_path: Path
) -> None:
    answer = training.answer
    registry = Registry(mlflow_url, training.model)
    version = registry.version(answer["version"])
    assert (version.digest, version.tags["fraudops.sample"], version.verdict) == (
        answer["digest"],
        "true",
        None,
    )
    registry.download_bundle(version, tmp_path, answer["digest"])
    manifest = verify_bundle(tmp_path, answer["digest"])
    assert version.schema_fingerprint == manifest.schema_fingerprint
    assert manifest.model_name == training.model
    assert np.load(tmp_path / "reference_rows.npy").shape[1] == 30


def test_the_mlflow_run_holds_parameters_metrics_with_bounds_plots_and_the_dataset(
    training: Training, mlflow_url: str
) -> None:
    mlflow_data = mlflow_run(mlflow_url, training.answer["run_id"])
    metrics = {metric["key"]: metric["value"] for metric in mlflow_data["data"]["metrics"]}
    parameters = {
        parameter["key"]: parameter["value"] for parameter in mlflow_data["data"]["params"]
    }
    assert mlflow_data["info"]["status"] == "FINISHED"
    assert metrics["roc_auc"] >= 0.97
    assert metrics["roc_auc_lower"] < metrics["roc_auc"] < metrics["roc_auc_upper"]
    assert {
        "average_precision",
        "recall_at_precision_0_80",
        "cost_per_transaction",
        "calibration_error",
        "threshold",
    } < metrics.keys()
    assert {
        "algorithm": "logistic-regression",
        "C": "0.01",
        "seed": "7",
        "split": "time",
    }.items() < parameters.items()
    dataset = mlflow_data["inputs"]["dataset_inputs"][0]["dataset"]
    assert parameters["dataset_digest"].startswith(dataset["digest"])
    assert artifacts(mlflow_url, training.answer["run_id"], "pictures") == {
        "roc_curve.png",
        "precision_recall_curve.png",
        "calibration.png",
        "confusion_matrix.png",
    }


def test_the_answer_is_one_object_with_the_next_command_and_nothing_else_on_standard_output(
    training: Training,
) -> None:
    assert training.answer["next"] == f"fraudops validate --version {training.answer['version']}"
    assert training.answer["metrics"]["roc_auc"].keys() == {"value", "lower", "upper"}
    assert "evaluating on" in training.done.stderr
    assert "Warning" not in training.done.stderr
    assert "View run" not in training.done.stderr


def test_a_second_schema_trains_by_configuration_and_ends_with_version_metrics_and_command(
    mlflow_url: str, second_schema: tuple[Path, Path], tmp_path: Path
) -> None:
    data, schema = second_schema
    config = tmp_path / "train.yaml"
    config.write_text(
        "algorithm: hist-gradient-boosting\n"
        "seed: 11\n"
        "hyperparameters: {max_iter: 20}\n"
        "costs: {review: 4}\n"
    )
    options = [
        "--data",
        str(data),
        "--schema",
        str(schema),
        "--config",
        str(config),
        "--set",
        "max_leaf_nodes=5",
        "--state",
        str(tmp_path / "a state"),
    ]
    training = run_training(mlflow_url, *options)
    assert training.done.returncode == 0, training.done.stderr
    assert "version 1 is registered" in training.done.stdout
    assert "ROC-AUC" in training.done.stdout
    assert "as collected" in training.done.stdout
    assert (
        training.done.stdout.splitlines()[-1]
        == f"next: fraudops validate --version 1 --state '{tmp_path / 'a state'}'"
    )
    registry = Registry(mlflow_url, training.model)
    version = registry.version("1")
    registry.download_bundle(version, tmp_path / "bundle", version.digest or "")
    manifest = verify_bundle(tmp_path / "bundle", version.digest or "")
    assert manifest.feature_schema.names == ("euros", "age_days", "velocity", "distance", "risk")
    assert (manifest.scorer.kind, manifest.threshold_policy["review"], manifest.dataset.source) == (
        "onnx",
        4.0,
        str(data),
    )
    assert {"max_iter": 20, "max_leaf_nodes": 5, "seed": 11}.items() <= manifest.parameters.items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--set", "depth=3"],
            "hyperparameter 'depth' is unknown; known are C, class_weight, l1_ratio, max_iter, tol",
        ),
        (["--algorithm", "oracle"], "'oracle' is not one of"),
        (["--config", "absent.yaml"], "absent.yaml: the configuration cannot be read"),
    ],
)
def test_a_wrong_setting_is_refused_before_the_data_and_the_registry_are_opened(
    arguments: list[str], message: str
) -> None:
    training = run_training(f"http://127.0.0.1:{free_port()}", *arguments, "--data", "absent.csv")
    assert training.done.returncode == 64
    assert message in training.done.stderr
    assert "absent.csv" not in training.done.stderr


def test_without_mlflow_training_ends_before_it_reads_the_data_and_names_the_url() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    training = run_training(url, "--data", "absent.csv")
    assert training.done.returncode == 75
    assert url in training.done.stderr
    assert "absent.csv" not in training.done.stderr


def test_training_registers_behind_a_proxy_that_cannot_reach_this_machine(
    mlflow_url: str, second_schema: tuple[Path, Path]
) -> None:
    data, schema = map(str, second_schema)
    proxy = f"http://127.0.0.1:{free_port()}"
    names = ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY")
    environment = dict.fromkeys(names, proxy) | {"NO_PROXY": "", "no_proxy": ""}
    training = run_training(mlflow_url, "--data", data, "--schema", schema, **environment)
    assert training.done.returncode == 0, training.done.stderr
    assert [one.version for one in Registry(mlflow_url, training.model).versions()] == ["1"]


def test_data_that_does_not_fit_registers_nothing(mlflow_url: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    training = run_training(mlflow_url, "--data", str(tmp_path / "rows.csv"))
    assert training.done.returncode == 64
    assert Registry(mlflow_url, training.model).versions() == []


def content(folder: Path) -> RunContent:
    (folder / "bundle").mkdir()
    (folder / "bundle" / "bundle.json").write_text("{}")
    return RunContent(
        "a run",
        {"C": 1},
        {"roc_auc": 0.9},
        {},
        "rows",
        "0" * 64,
        {"a.png": b"png"},
        folder / "bundle",
    )


def test_a_run_whose_version_cannot_be_registered_is_marked_failed(
    mlflow_url: str, tmp_path: Path
) -> None:
    with (
        pytest.raises(StoreDownError),
        logged_run(mlflow_url, mlflow_url, content(tmp_path)) as run_id,
    ):
        raise StoreDownError("the registry went away")
    assert mlflow_run(mlflow_url, run_id)["info"]["status"] == "FAILED"


def test_an_mlflow_that_becomes_unavailable_during_training_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    url = f"http://127.0.0.1:{free_port()}"
    with (
        pytest.raises(StoreDownError, match=f"MLflow at {url} did not take the run"),
        logged_run(url, url, content(tmp_path)),
    ):
        pytest.fail("there is no run to register")


def test_the_git_revision_is_that_of_the_checkout_and_unknown_outside_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "fraudops" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.setattr("fraudops.__file__", str(package))
    assert git_revision() == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "fraudops"], ["commit", "-q", "-m", "first"]):
        subprocess.run(
            [*git, *arguments], check=True, env={**os.environ, "GIT_CONFIG_GLOBAL": os.devnull}
        )
    clean = git_revision()
    assert len(clean) == 40
    package.write_text("changed = True\n")
    assert git_revision() == f"{clean}-dirty"
