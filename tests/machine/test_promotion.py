"""Promotion on the whole product: under load, refused, offline, and two together."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from fraudops.endpoints import Endpoints
from fraudops.model.manifest import MANIFEST
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.registry import Registry
from jobs.promote import PromotionOptions, promote_version
from jobs.rollback import roll_back
from tests.support.http_client import HTTP
from tests.support.platform import Platform
from tests.support.serving import TOKEN, Service
from tests.support.waiting import eventually

NOWHERE = "127.0.0.1:9"
ALTERNATIONS = 20
CLIENTS = 8


@dataclass
class RunningLoad:
    """The answers of the clients, filled in when their block has ended.

    `answers` holds when each request was sent (monotonic seconds) and the version that answered
    it. `failures` holds every answer that was not a 200.
    """

    answers: list[tuple[float, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@contextmanager
def load(url: str) -> Iterator[RunningLoad]:
    """Run CLIENTS clients in another process until the block ends."""
    running = RunningLoad()
    command = [sys.executable, "-m", "tests.support.load", url, str(CLIENTS)]
    clients = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield running
        seen = json.loads(clients.communicate(timeout=60)[0])
        running.answers, running.failures = seen["answers"], seen["failures"]
    finally:
        clients.kill()


@pytest.fixture(scope="module")
def versions(serving: Platform) -> tuple[str, str]:
    """Return the version that serves and another one that passed validation."""
    current = record(serving).current
    assert current is not None
    trained = serving.run("train", "--seed", "8", "--json")
    assert trained.returncode == 0, trained.stderr
    other = str(json.loads(trained.stdout)["version"])
    assert serving.run("validate", "--version", other).returncode == 0
    return current.version, other


def record(platform: Platform) -> ServingRecord:
    return FileRecordStore(platform.state.serving_record).read()[0]


def promote(platform: Platform, version: str, *more: str) -> str:
    done = platform.run("promote", "--version", version, "--alias", "production", *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(platform: Platform) -> list[tuple[str, str, str | None]]:
    """Return version, outcome and reason of each row, in the order of their start."""
    with psycopg.connect(platform.database_url) as connection:
        return connection.execute(
            "SELECT to_version, outcome, reason FROM promotions ORDER BY started_at, id"
        ).fetchall()


def test_twenty_promotions_under_load_fail_no_request_and_leave_no_old_answer(
    serving: Platform, versions: tuple[str, str]
) -> None:
    promote(serving, versions[0])
    periods: list[tuple[float, float, str]] = []
    with load(serving.inference_url) as running:
        for number in range(ALTERNATIONS):
            version = versions[(number + 1) % 2]
            assert promote_version(serving.state, PromotionOptions(version)).outcome == "done"
            returned = time.monotonic()
            time.sleep(0.2)  # during this time only this version may answer
            periods.append((returned, time.monotonic(), version))
    assert running.failures == []
    assert {version for _, version in running.answers} == set(versions)
    for returned, until, version in periods:
        late = [answered for sent, answered in running.answers if returned < sent < until]
        assert len(late) >= 10
        assert set(late) == {version}
    assert [row[1] for row in rows(serving)[-ALTERNATIONS:]] == ["done"] * ALTERNATIONS


def test_the_alias_follows_the_record_and_champion_names_the_version_before(
    serving: Platform, versions: tuple[str, str]
) -> None:
    promote(serving, versions[1])
    promote(serving, versions[0])
    registry = Registry(serving.mlflow_url)
    assert (registry.alias("production"), registry.alias("champion")) == versions
    assert record(serving).alias_epoch == record(serving).epoch


def test_promoting_the_serving_version_changes_no_pod(serving: Platform) -> None:
    before = record(serving)
    assert before.current is not None
    assert "is in production already: nothing has changed" in promote(
        serving, before.current.version
    )
    assert record(serving) == before
    assert rows(serving)[-1] == (before.current.version, "done", "already in production")


def test_repeated_rollbacks_go_back_and_never_forward(
    serving: Platform, versions: tuple[str, str]
) -> None:
    promote(serving, versions[1])
    promote(serving, versions[0])
    stack = [entry.version for entry in record(serving).stack]
    for back in range(2):
        done = serving.run("rollback", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["version"] == stack[back]
        assert [entry.version for entry in record(serving).stack] == stack[back + 1 :]


def test_a_version_without_a_verdict_is_refused_unless_the_promotion_waives_it(
    serving: Platform,
) -> None:
    trained = serving.run("train", "--seed", "9", "--json")
    version = str(json.loads(trained.stdout)["version"])
    before = record(serving)
    refused = serving.run("promote", "--version", version)
    assert refused.returncode == 65
    assert f"fraudops validate --version {version}" in refused.stderr
    assert record(serving) == before
    assert rows(serving)[-1][:2] == (version, "refused")
    assert serving.run("promote", "--version", version, "--force").returncode == 64
    promote(serving, version, "--force", "--reason", "the old model is on fire")
    current = record(serving).current
    assert current is not None
    assert current.waiver is not None
    assert current.waiver["reason"] == "the old model is on fire"
    assert current.waiver["digest"] == current.digest
    assert serving.run("rollback").returncode == 0
    # The waiver was of that promotion alone.
    assert serving.run("promote", "--version", version).returncode == 65
    shown = serving.run("promotions", "--limit", "3").stdout
    assert "gates waived: the old model is on fire" in shown


def test_production_refuses_to_promote_or_roll_back_to_a_model_of_the_packaged_sample(
    serving: Platform, versions: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in versions:
        promote(serving, version)
    assert (
        HTTP.get(f"{serving.inference_url}/model_info").json()["model"]["trained_on_sample"] is True
    )
    before = record(serving)
    monkeypatch.setenv("FRAUDOPS_ENVIRONMENT", "production")
    for result in (
        promote_version(serving.state, PromotionOptions(versions[0])),
        promote_version(serving.state, PromotionOptions(versions[0], waiver_reason="now")),
        roll_back(serving.state),
    ):
        assert result.outcome == "refused"
        assert "was trained on the packaged sample" in str(result.reason)
    assert record(serving) == before


def test_an_altered_bundle_is_refused_by_the_pod_and_nothing_has_changed(serving: Platform) -> None:
    version = str(json.loads(serving.run("train", "--seed", "10", "--json").stdout)["version"])
    assert serving.run("validate", "--version", version).returncode == 0
    source = Registry(serving.mlflow_url).version(version)
    scorer = next(
        path for path in serving.state.mlflow.rglob("scorer.json") if source.run_id in str(path)
    )
    scorer.write_bytes(scorer.read_bytes().replace(b"0", b"1", 1))
    before = record(serving)
    refused = serving.run("promote", "--version", version)
    assert refused.returncode == 65
    assert "scorer.json has been altered" in refused.stderr
    after = record(serving)
    assert (after.current, after.stack, after.reserved) == (before.current, before.stack, None)
    assert rows(serving)[-1][:2] == (version, "refused")


def test_an_unknown_version_is_named_with_the_known_ones(serving: Platform) -> None:
    done = serving.run("promote", "--version", "999")
    assert done.returncode == 64
    assert "999" in done.stderr


def test_two_concurrent_promotions_take_turns(serving: Platform, versions: tuple[str, str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(
            pool.map(
                lambda version: serving.start("promote", "--version", version, "--json"), versions
            )
        )
    assert [one.returncode for one in results] == [0, 0], [one.stderr for one in results]
    epochs = [json.loads(one.stdout)["epoch"] for one in results]
    assert record(serving).epoch == max(epochs)


def test_an_alias_moved_by_hand_is_reported_and_not_followed(
    serving: Platform, versions: tuple[str, str]
) -> None:
    promote(serving, versions[0])
    registry = Registry(serving.mlflow_url)
    registry.set_alias("production", versions[1])
    done = serving.run("reconcile", "--json")
    assert f"points at version {versions[1]}" in json.loads(done.stdout)["alias"]
    current = record(serving).current
    assert current is not None
    assert current.version == versions[0]
    assert alias_error(serving) == json.loads(done.stdout)["alias"]
    registry.set_alias("production", versions[0])
    assert json.loads(serving.run("reconcile", "--json").stdout)["alias"] is None
    assert alias_error(serving) is None


def test_promoting_the_serving_version_restores_an_alias_that_was_moved_by_hand(
    serving: Platform, versions: tuple[str, str]
) -> None:
    promote(serving, versions[0])
    registry = Registry(serving.mlflow_url)
    registry.set_alias("production", versions[1])
    assert serving.run("reconcile").returncode == 0
    assert alias_error(serving) is not None
    promote(serving, versions[0])
    assert registry.alias("production") == versions[0]
    assert alias_error(serving) is None


def alias_error(platform: Platform) -> str | None:
    error: str | None = HTTP.get(f"{platform.inference_url}/model_info").json()["errors"]["alias"]
    return error


# -- without MLflow and PostgreSQL


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Platform]:
    """Yield an inference service without MLflow and PostgreSQL.

    Its record and its cache hold two versions.
    """
    service = Service(tmp_path / "state")
    try:
        service.promoted(1)
        service.record("2", service.bundle(2))
        store = FileRecordStore(service.state.serving_record)
        current, token = store.read()
        older = ServingRecord(
            current=current.current, stack=(_first(service),), alias_epoch=current.epoch
        )
        store.compare_and_set(older, token)
        service.state.admin_token.write_text(TOKEN)
        places = Endpoints(
            inference_url=service.url,
            database_url=f"postgresql://u:p@{NOWHERE}/fraudops",
            mlflow_url=f"http://{NOWHERE}",
        )
        service.state.endpoints.write_text(
            json.dumps({name: getattr(places, name) for name in places.__struct_fields__})
        )
        eventually(lambda: _serves(service, "2"))
        yield Platform(service.state)
    finally:
        service.stop()


def _first(service: Service) -> ServingEntry:
    digest = service.bundle(1)
    manifest = (service.state.bundles / digest / MANIFEST).read_bytes()
    return ServingEntry(
        epoch=1,
        version="1",
        digest=digest,
        schema_fingerprint="of the bundle",
        by="a test",
        act="promote",
        at="2026-01-01T00:00:00Z",
        verdict={"passed": True},
        signed_verdict=service.signed_verdict("1", manifest),
    )


def _serves(service: Service, version: str) -> None:
    assert service.ready()["version"] == version


def test_a_rollback_needs_neither_mlflow_nor_postgresql_and_the_reconciler_catches_up(
    alone: Platform, mlflow_url: str, database: str
) -> None:
    done = alone.run("rollback", "--json")
    assert done.returncode == 0, done.stderr
    rollback = json.loads(done.stdout)
    assert (rollback["version"], rollback["late"]) == ("1", ["alias", "row"])
    assert record(alone).alias_epoch < record(alone).epoch
    late = alone.run("reconcile")
    assert late.returncode == 75
    assert "not up to date: rows, alias;" in late.stderr
    assert [row.outcome for row in record(alone).unwritten] == ["done"]
    listed = alone.run("promotions")
    assert listed.returncode == 75
    assert "not written to PostgreSQL yet" in listed.stdout

    endpoints = {
        "inference_url": alone.inference_url,
        "database_url": database,
        "mlflow_url": mlflow_url,
    }
    alone.state.endpoints.write_text(json.dumps(endpoints))
    _register_a_version(mlflow_url)
    caught_up = alone.run("reconcile", "--json")
    assert caught_up.returncode == 0, caught_up.stderr
    assert json.loads(caught_up.stdout)["late"] == []
    assert [row[:2] for row in rows(alone)] == [("1", "done")]
    assert record(alone).unwritten == ()
    assert Registry(mlflow_url).alias("production") == "1"


def _register_a_version(url: str) -> None:
    """Register version 1, so that an alias can point at it."""
    made = HTTP.post(
        f"{url}/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}
    ).raise_for_status()
    Registry(url).create_version(made.json()["run"]["info"]["run_id"], {})


def test_a_promotion_without_the_registry_changes_nothing_and_names_the_registry(
    alone: Platform,
) -> None:
    before = record(alone)
    done = alone.run("promote", "--version", "3")
    assert done.returncode == 75
    assert NOWHERE in done.stderr
    assert record(alone) == before
    models = alone.run("models")
    assert models.returncode == 75
    assert "version 2 serves" in models.stderr


def test_without_the_service_nothing_is_promoted(alone: Platform) -> None:
    places = json.loads(alone.state.endpoints.read_bytes())
    alone.state.endpoints.write_text(json.dumps(places | {"inference_url": f"http://{NOWHERE}"}))
    before = record(alone)
    done = alone.run("rollback")
    assert done.returncode == 65
    assert "is the inference service running" in done.stderr
    after = record(alone)
    assert (after.current, after.stack) == (before.current, before.stack)
