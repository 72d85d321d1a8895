"""Starts and restarts of the service: cache, altered files, MLflow, records, settings."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from fraudops.model.manifest import MANIFEST
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import EMPTY
from fraudops.registry import Registry
from fraudops.signing.credentials import Credentials
from services.inference.pod.state import pod_state_path, read_pod_state, write
from tests.support.bundles import write_linear_bundle
from tests.support.http_client import HTTP
from tests.support.processes import free_port
from tests.support.serving import Service, problem
from tests.support.waiting import eventually


@contextlib.contextmanager
def running(service: Service) -> Iterator[Service]:
    try:
        yield service
    finally:
        if service.process and service.process.poll() is None:
            service.stop()


def alter(service: Service, digest: str) -> None:
    with (service.state.bundles / digest / "scorer.json").open("a") as file:
        file.write(" ")


def test_a_restart_serves_from_the_cache_with_mlflow_away(tmp_path: Path) -> None:
    away = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
    with running(Service(tmp_path, environment=away).promoted(1)) as service:
        assert service.stop() == 0
        service.start()
        ready = eventually(service.ready)
        assert (ready["version"], len(ready["workers"])) == ("1", 2)
        assert service.predict().status_code == 200


def test_an_altered_cached_file_is_refused_at_the_start_and_ready_says_so(tmp_path: Path) -> None:
    service = Service(tmp_path, workers=1)
    digest = service.bundle(1)
    service.record("1", digest)
    alter(service, digest)
    with running(service.start()):

        def refused() -> None:
            reason = service.not_ready()
            assert (
                f"the cached bundle {digest[:12]} was refused: scorer.json has been altered"
                in reason
            )
            assert "MLFLOW_TRACKING_URI is not set" in reason

        eventually(refused)
        assert problem(service.predict())["status"] == 503
        assert HTTP.get(f"{service.url}/health").status_code == 200
        assert not (service.state.bundles / digest).exists()
        # The service verifies and serves the restored bundle without a restart.
        service.bundle(1)
        eventually(service.ready)
        assert "not" not in HTTP.get(f"{service.url}/model_info").json()["errors"]


def test_a_restart_serves_no_other_model_in_the_same_epoch(tmp_path: Path) -> None:
    with running(Service(tmp_path, workers=1).promoted(1)) as service:
        assert service.stop() == 0
        service.record("2", service.bundle(2), epoch=1)
        service.start()
        assert eventually(service.ready, 30)["version"] == "1"
        assert (
            "names another model for epoch 1"
            in HTTP.get(f"{service.url}/model_info").json()["errors"]["epoch"]
        )


def test_a_bundle_that_is_missing_or_altered_in_the_cache_is_fetched_from_mlflow(
    tmp_path: Path, mlflow_url: str
) -> None:
    model = f"serving-{uuid4().hex[:8]}"
    made = tmp_path / "made"
    digest = write_linear_bundle(made, seed=1)
    version = _register(mlflow_url, model, made)
    service = Service(
        tmp_path / "state",
        workers=1,
        environment={"MLFLOW_TRACKING_URI": mlflow_url, "FRAUDOPS_MODEL_NAME": model},
    )
    service.root.mkdir()
    verdict = service.signed_verdict(version, (made / MANIFEST).read_bytes())
    service.record(version, digest, credentials=Credentials(signed_verdict=verdict))
    with running(service.start()):
        eventually(service.ready)
        assert _source(service) == "registry"
        service.stop()
        alter(service, digest)
        service.start()
        eventually(service.ready)
        assert (_source(service), service.predict().status_code) == ("registry", 200)
        assert "scorer.json has been altered" in service.log
        other = service.reload(phase="prepare", version="99", digest=service.known(99))
        assert other.status_code == 409
        assert "99" in problem(other)["detail"]


def _source(service: Service) -> str:
    return str(HTTP.get(f"{service.url}/model_info").json()["model"]["source"])


def _register(url: str, model: str, bundle: Path) -> str:
    run = HTTP.post(
        f"{url}/api/2.0/mlflow/runs/create", json={"experiment_id": "0", "start_time": 1}
    ).json()["run"]["info"]["run_id"]
    for file in bundle.iterdir():
        HTTP.put(
            f"{url}/api/2.0/mlflow-artifacts/artifacts/0/{run}/artifacts/bundle/{file.name}",
            content=file.read_bytes(),
        ).raise_for_status()
    with contextlib.closing(Registry(url, model)) as registry:
        return registry.create_version(run, {})


def test_a_bundle_lost_while_serving_matters_only_to_a_new_worker_until_it_is_back(
    tmp_path: Path,
) -> None:
    with running(Service(tmp_path).promoted(1)) as service:
        shutil.rmtree(service.state.bundles / service.ready()["digest"])
        assert {service.predict().status_code for _ in range(8)} == {200}
        os.kill(service.worker_pids()[0], signal.SIGKILL)

        def reported() -> None:
            assert "not in the cache" in service.not_ready()

        eventually(reported)
        service.bundle(1)
        ready = eventually(service.ready)
        assert len(ready["workers"]) == 2


def test_an_unreadable_record_changes_nothing_for_a_pod_that_serves(tmp_path: Path) -> None:
    with running(Service(tmp_path, workers=1).promoted(1)) as service:
        service.state.serving_record.write_text("{")

        def reported() -> None:
            assert (
                "cannot be read" in HTTP.get(f"{service.url}/model_info").json()["errors"]["epoch"]
            )

        eventually(reported)
        assert service.ready()["epoch"] == 1
        service.stop()
        service.start()
        assert eventually(service.ready, 30)["version"] == "1"


def test_a_record_that_went_back_is_reported_and_not_followed_even_over_a_restart(
    tmp_path: Path,
) -> None:
    service = Service(tmp_path, workers=1)
    service.record("5", service.bundle(5), epoch=5)
    with running(service.start()):
        eventually(service.ready)
        service.stop()
        service.record("4", service.bundle(4), epoch=4)
        service.start()
        assert eventually(service.ready, 30)["epoch"] == 5
        assert (
            "went back to epoch 4"
            in HTTP.get(f"{service.url}/model_info").json()["errors"]["epoch"]
        )
        assert service.predict().json()["model_version"] == "5"


def test_a_start_follows_a_record_that_moved_while_the_pod_was_away(tmp_path: Path) -> None:
    with running(Service(tmp_path, workers=1).promoted(1)) as service:
        service.stop()
        service.record("2", service.bundle(2))
        service.start()
        assert eventually(service.ready, 30)["version"] == "2"
        assert read_pod_state(service.state).served == (service.bundle(1),)


def test_a_service_is_ready_before_its_first_promotion_if_there_is_a_record(tmp_path: Path) -> None:
    service = Service(tmp_path, workers=1, environment={"FRAUDOPS_READY_WITHOUT_MODEL": "true"})
    with running(service.start()):
        # The setup Job has not made the record yet.
        assert service.not_ready() == "no model promoted"
        store = FileRecordStore(service.state.serving_record)
        store.compare_and_set(EMPTY, b"")
        nothing = {"status": "ready", "epoch": 0, "version": None, "digest": None}
        assert nothing.items() <= eventually(service.ready).items()
        assert service.metrics()["fraudops_ready"] == 1
        answer = service.predict()
        assert (answer.status_code, problem(answer)["detail"]) == (503, "no model promoted")
        service.record("1", service.bundle(1))
        assert eventually(service.serving) == "1"
        assert service.predict().status_code == 200


def test_a_pod_state_that_names_an_unverified_bundle_is_not_believed(tmp_path: Path) -> None:
    service = Service(tmp_path, workers=1)
    digest = service.bundle(1)
    alter(service, digest)
    service.state.run.mkdir(parents=True)
    write(
        pod_state_path(service.state), PodState(epoch=3, version="1", digest=digest, source="cache")
    )
    with running(service.start()):
        assert "was refused" in eventually(service.not_ready)
        assert read_pod_state(service.state) == PodState(epoch=3)


def test_all_workers_leave_when_the_service_is_killed_and_a_restart_finds_the_port_free(
    tmp_path: Path,
) -> None:
    with running(Service(tmp_path).promoted(1)) as service:
        assert service.process is not None
        workers, others = service.worker_pids(), psutil.Process(service.process.pid).children()
        service.kill()
        eventually(lambda: _gone([other.pid for other in others]))
        service.start()
        assert set(service.worker_pids()).isdisjoint(workers)
        eventually(service.ready)


def _gone(pids: list[int]) -> None:
    assert [
        pid
        for pid in pids
        if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    ] == []


def test_a_second_service_on_the_same_folder_ends_with_75(tmp_path: Path) -> None:
    with running(Service(tmp_path, workers=1).promoted(1)) as service:
        second = Service(tmp_path)
        code = subprocess.run(
            [sys.executable, "-m", "services.inference"],
            env={
                "PATH": os.environ["PATH"],
                "FRAUDOPS_STATE": str(tmp_path),
                "FRAUDOPS_PORT": str(second.port),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert code.returncode == 75
        assert "another inference service works on" in code.stderr
        assert service.predict().status_code == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [("FRAUDOPS_PORT", "http"), ("FRAUDOPS_WORKER", "2"), ("FRAUDOPS_WORKERS", "0")],
)
def test_a_wrong_setting_ends_with_64_and_its_name(tmp_path: Path, name: str, value: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.inference"],
        env={"FRAUDOPS_STATE": str(tmp_path), name: value},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 64
    assert name in done.stderr


def test_arguments_end_with_64_and_a_hint_at_the_environment(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "services.inference", "--workers", "3"]
    done = subprocess.run(
        command,
        env={"PATH": os.environ["PATH"], "FRAUDOPS_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 64
    assert "set environment variables instead" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
