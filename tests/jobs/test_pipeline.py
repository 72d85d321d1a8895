"""`fraudops pipeline` and the install's first model: all steps, the gates, and a second try.

MLflow, PostgreSQL and the inference service are real.
"""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fraudops import datasets
from fraudops.datasets.writing import write_frame
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import TAG_REQUEST, Registry
from fraudops.schema import load_schema
from fraudops.settings import PromoteJobSettings
from jobs import pipeline
from jobs.install import first_model as bootstrap
from tests.support.commands import Caller, CommandResult
from tests.support.serving import Service

_numbers = itertools.count()
BANK = Path(__file__).parents[1] / "data" / "bank.yaml"
FEW = ("--set", "max_iter=200")
LENIENT_GATES = {"FRAUDOPS_GATES__AVERAGE_PRECISION": "0.2", "FRAUDOPS_GATES__RESAMPLES": "100"}


@dataclass
class PipelineSite:
    """An inference service without a model, its registry and its database."""

    service: Service
    registry: Registry
    environment: dict[str, str]
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def pipeline(self, *arguments: str | Path, **environment: str) -> CommandResult:
        return Caller("pipeline", pipeline.command, self.monkeypatch, self.capsys)(
            *arguments, **(self.environment | LENIENT_GATES | environment)
        )

    def bootstrap(self, *arguments: str | Path, **environment: str) -> CommandResult:
        return Caller("bootstrap", bootstrap.command, self.monkeypatch, self.capsys)(
            *arguments, **(self.environment | LENIENT_GATES | environment)
        )

    @property
    def record(self) -> ServingRecord:
        return FileRecordStore(self.service.state.serving_record).read()[0]

    @property
    def versions(self) -> list[str]:
        return [version.version for version in self.registry.versions()]


@pytest.fixture
def idle_site(
    tmp_path: Path,
    mlflow_url: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> PipelineSite:
    """Return a site whose service does not run, for pipelines that end before they need it."""
    model = f"pipeline-{next(_numbers)}"
    service = Service(
        tmp_path / "state",
        workers=1,
        environment={"MLFLOW_TRACKING_URI": mlflow_url, "FRAUDOPS_MODEL_NAME": model},
    )
    service.make_folder()
    environment = service.job_environment(model, mlflow_url, database)
    return PipelineSite(service, Registry(mlflow_url, model), environment, monkeypatch, capsys)


@pytest.fixture
def site(idle_site: PipelineSite) -> Iterator[PipelineSite]:
    idle_site.service.start()
    yield idle_site
    idle_site.service.stop()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "bank.parquet"
    write_frame(datasets.generate(4000, 3, load_schema(BANK), fraud_rate=0.05).dataset.frame, path)
    return path


def answer(result: CommandResult) -> dict[str, Any]:
    return dict(json.loads(result.stdout))


def test_a_pipeline_promotes_a_model_and_its_second_try_trains_nothing(
    site: PipelineSite, rows: Path
) -> None:
    data = ("--data", rows, "--schema", BANK)
    first = site.pipeline(*data, "--json", FRAUDOPS_REQUEST_ID="job-1")
    assert first.returncode == 0, first.stderr
    assert answer(first)["taken"] == ["train", "validate", "promote"]
    current = site.record.current
    assert current is not None
    assert (current.version, current.by, site.versions) == ("1", "job-1", ["1"])
    assert site.registry.version("1").tags[TAG_REQUEST] == "job-1"

    again = site.pipeline(*data, FRAUDOPS_REQUEST_ID="job-1")
    assert again.returncode == 0, again.stderr
    assert "version 1 serves on every worker (epoch 1" in again.stdout
    assert (site.versions, site.record.epoch) == (["1"], 1)
    with psycopg.connect(site.environment["DATABASE_URL"]) as connection:
        assert connection.execute("SELECT request, outcome FROM promotions").fetchall() == [
            ("job-1", "done")
        ]


def test_another_try_continues_where_the_last_one_ended(site: PipelineSite, rows: Path) -> None:
    data = ("--data", rows, "--schema", BANK, "--json")
    stopped = site.pipeline(
        *data,
        FRAUDOPS_REQUEST_ID="job-2",
        FRAUDOPS_URL="http://127.0.0.1:9",
        FRAUDOPS_PROMOTION__PREPARE_SECONDS="1",
    )
    assert (stopped.returncode, answer(stopped)["taken"]) == (65, ["train", "validate", "promote"])
    assert answer(stopped)["promotion"]["outcome"] == "refused"
    assert site.record.current is None
    # Any client of MLflow can name the request on a version of its own, once the request is known.
    run = site.registry.version("1").run_id
    assert site.registry.create_version(run, {TAG_REQUEST: "job-2"}) == "2"
    resumed = site.pipeline(*data, FRAUDOPS_REQUEST_ID="job-2")
    assert resumed.returncode == 0, resumed.stderr
    assert (answer(resumed)["version"], answer(resumed)["taken"], site.versions) == (
        "1",
        ["promote"],
        ["2", "1"],
    )


def test_three_containers_hand_the_version_on_and_a_second_try_only_confirms_it(
    site: PipelineSite, rows: Path, tmp_path: Path
) -> None:
    """Only the last container knows the serving record: the pods name the version that serves."""
    earlier = site.pipeline("--data", rows, "--schema", BANK, *FEW)
    assert earlier.returncode == 0, earlier.stderr

    def step(name: str, folder: Path, **environment: str) -> CommandResult:
        arguments = ("--data", rows, "--schema", BANK, "--json", "--step", name)
        known = {"FRAUDOPS_REQUEST_ID": "job-3"} | environment
        return site.pipeline(*arguments, "--hand-over", folder / "hand-over.json", **known)

    for attempt in ("first", "second"):
        folder = tmp_path / attempt
        folder.mkdir()
        train = step("train", folder)
        assert (train.returncode, train.stdout) == (0, ""), train.stderr
        # Without an account in Kubernetes: no release is reachable.
        alone = {"FRAUDOPS_CLUSTER__RELEASE": "none", "KUBECONFIG": "/nonexistent"}
        validate = step("validate", folder, FRAUDOPS_PRODUCTION_URL=site.service.url, **alone)
        assert (validate.returncode, validate.stdout) == (0, ""), validate.stderr
        promote = step("promote", folder)
        assert promote.returncode == 0, promote.stderr
        taken = ["train", "validate", "promote"] if attempt == "first" else ["promote"]
        assert (answer(promote)["version"], answer(promote)["taken"]) == ("2", taken)
    assert (site.versions, site.record.epoch) == (["2", "1"], 2)
    compared = (site.registry.version("2").verdict or {})["compared_to"]
    assert compared["digest"] == site.registry.version("1").digest


def test_the_gate_of_one_step_ends_the_pipeline_and_an_unknown_hand_over_is_refused(
    idle_site: PipelineSite, rows: Path, tmp_path: Path
) -> None:
    file = tmp_path / "hand-over.json"
    options = ("--data", rows, "--schema", BANK, "--json", "--hand-over", file, "--step")
    early = idle_site.pipeline(*options, "validate")
    assert (early.returncode, answer(early)["taken"]) == (64, [])
    assert "no step before this one has named a version" in early.stderr
    assert idle_site.pipeline(*options, "train").returncode == 0
    refused = idle_site.pipeline(*options, "validate", FRAUDOPS_GATES__ROC_AUC="1")
    assert (refused.returncode, answer(refused)["taken"]) == (65, ["train", "validate"])
    file.write_text("nothing")
    assert idle_site.pipeline(*options, "promote").returncode == 64
    assert idle_site.pipeline("--step", "train").returncode == 64


def test_the_gate_that_refuses_ends_the_pipeline(idle_site: PipelineSite, rows: Path) -> None:
    result = idle_site.pipeline(
        "--data", rows, "--schema", BANK, "--json", FRAUDOPS_GATES__ROC_AUC="1"
    )
    assert result.returncode == 65
    assert (answer(result)["taken"], answer(result)["promotion"]) == (["train", "validate"], None)
    assert "roc_auc" in answer(result)["reason"]
    assert idle_site.record.current is None


def test_production_refuses_a_model_of_the_packaged_sample_before_it_is_trained(
    idle_site: PipelineSite,
) -> None:
    for command in (idle_site.pipeline, idle_site.bootstrap):
        result = command(FRAUDOPS_ENVIRONMENT="production")
        assert result.returncode == 65
        assert "packaged sample" in result.stderr
    assert idle_site.versions == []


def test_bootstrap_promotes_a_first_model_and_then_changes_nothing(site: PipelineSite) -> None:
    first = site.bootstrap("--wait", "30", FRAUDOPS_REQUEST_ID="install-1")
    assert first.returncode == 0, first.stderr
    for part in ("PostgreSQL has", "MLflow answers", "the pods"):
        assert part in first.stderr
    current = site.record.current
    assert current is not None
    assert current.by == "install-1"
    for request in ("install-1", "install-2"):
        again = site.bootstrap(FRAUDOPS_REQUEST_ID=request, FRAUDOPS_ENVIRONMENT="development")
        assert again.returncode == 0, again.stderr
    assert "version 1 serves already" in again.stdout
    assert (site.versions, site.record.epoch) == (["1"], 1)


def test_the_containers_of_bootstrap_make_a_first_model_and_then_have_nothing_to_do(
    site: PipelineSite, tmp_path: Path
) -> None:
    for attempt in ("install-1", "install-2"):
        file = tmp_path / f"{attempt}.json"
        for name in ("wait", "train", "validate", "promote"):
            done = site.bootstrap("--step", name, "--hand-over", file, FRAUDOPS_REQUEST_ID=attempt)
            assert done.returncode == 0, done.stderr
            if attempt == "install-2":
                assert "version 1 serves already: nothing to do" in done.stdout
    current = site.record.current
    assert current is not None
    assert (current.by, site.versions, site.record.epoch) == ("install-1", ["1"], 1)


def test_bootstrap_says_what_it_waits_for_and_ends_at_its_deadline(idle_site: PipelineSite) -> None:
    result = idle_site.bootstrap(
        "--wait", "1", DATABASE_URL="postgresql://nobody:correct-horse@127.0.0.1:9/none"
    )
    assert result.returncode == 75
    assert "PostgreSQL at 127.0.0.1:9/none does not answer" in result.stderr
    assert "correct-horse" not in result.stderr
    assert idle_site.versions == []


def test_a_first_model_never_replaces_one_that_was_promoted_before_it(
    site: PipelineSite, rows: Path
) -> None:
    assert site.pipeline("--data", rows, "--schema", BANK).returncode == 0
    for name, value in (site.environment | LENIENT_GATES).items():
        site.monkeypatch.setenv(name, value)
    plan = pipeline.TrainingInputs.of(str(rows), BANK, None, None)
    first_model = pipeline.Pipeline(
        site.service.state,
        PromoteJobSettings.from_environment(),
        plan,
        pipeline.notices,
        if_epoch=0,
    )
    assert first_model.run(pipeline.PipelineSteps()).outcome == "refused"
    assert site.record.epoch == 1
