"""Which answers of /reload are final, and which mean that the promoter must try again."""

import fcntl
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import free_port
from tests.support.serving import Service, problem
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Yield a service that polls the record once a minute, and whose MLflow does not answer."""
    started = Service(
        tmp_path_factory.mktemp("reload"),
        environment={
            "FRAUDOPS_RECORD_POLL_SECONDS": "60",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}",
        },
    ).promoted(1)
    yield started
    started.stop()


def assert_temporary(answer: httpx.Response, reason: str) -> None:
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
    assert reason in problem(answer)["detail"]


def prepare(pod: Service, seed: int, **body: Any) -> httpx.Response:
    epoch = pod.ready()["epoch"] + 1
    return pod.reload(
        phase="prepare", version=str(seed), digest=pod.bundle(seed), epoch=epoch, **body
    )


def test_a_registry_that_does_not_answer_is_temporary(pod: Service) -> None:
    answer = pod.reload(phase="prepare", version="7", digest=pod.known(7), epoch=9)
    assert_temporary(answer, "does not answer")


def test_a_busy_pod_is_temporary(pod: Service) -> None:
    with (pod.state.run / "pod.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer = prepare(pod, 2, deadline_seconds=0.2)
    assert_temporary(answer, "another call to this pod is not done yet")
    assert prepare(pod, 2).status_code == 200


def test_a_record_that_cannot_be_read_is_temporary(pod: Service) -> None:
    good = pod.state.serving_record.read_bytes()
    pod.state.serving_record.write_text("no record")
    assert_temporary(pod.reload(phase="commit"), "the serving record cannot be read")
    # The file's place holds a folder: the read itself fails.
    pod.state.serving_record.unlink()
    pod.state.serving_record.mkdir()
    assert_temporary(pod.reload(phase="commit"), "the serving record cannot be read")
    pod.state.serving_record.rmdir()
    pod.state.serving_record.write_bytes(good)
    assert pod.reload(phase="commit").status_code == 200


def test_a_record_before_the_expected_epoch_is_temporary_even_before_the_first_promotion(
    pod: Service,
) -> None:
    good = pod.state.serving_record.read_bytes()
    pod.state.serving_record.unlink()
    assert_temporary(pod.reload(phase="commit", epoch=1), "at epoch 0, not yet at 1")
    assert pod.reload(phase="commit").status_code == 409
    pod.state.serving_record.write_bytes(good)


def test_a_worker_that_hangs_is_temporary(pod: Service) -> None:
    hung = pod.worker_pids()[0]
    os.kill(hung, signal.SIGSTOP)

    def answered_by_the_other() -> None:
        # Connections that the kernel has assigned to the stopped worker time out.
        answer = pod.reload(
            phase="prepare", version="2", digest=pod.bundle(2), deadline_seconds=1, timeout=4
        )
        assert_temporary(answer, f"worker {hung} does not answer")

    try:
        eventually(answered_by_the_other)
    finally:
        os.kill(hung, signal.SIGCONT)
    eventually(pod.ready)


def test_a_full_disk_at_the_pods_commit_is_temporary_and_changes_nothing(pod: Service) -> None:
    before, epoch = pod.ready(), pod.record("3", pod.bundle(3))
    # RLIMIT_FSIZE acts like a full disk and needs no root: no state file can be written.
    for pid in pod.worker_pids():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (8, resource.RLIM_INFINITY))
    assert_temporary(pod.reload(phase="commit", epoch=epoch), "check the disk")
    assert pod.ready() == before
    for pid in pod.worker_pids():
        resource.prlimit(
            pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        )
    assert pod.reload(phase="commit", epoch=epoch).status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"phase": "prepare", "version": "2", "digest": "2" * 64, "epoch": 1}, 409),
        ({"phase": "commit", "version": "99"}, 409),
        ({"phase": "commit", "digest": "9" * 64}, 409),
        ({"phase": "prepare", "version": "2"}, 422),
        ({"phase": "drop"}, 422),
        ({"phase": "activate"}, 422),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "-".join(map(str, value.values())),
)
def test_what_no_retry_can_mend_is_final(pod: Service, body: dict[str, Any], status: int) -> None:
    pod.record("4", pod.bundle(4), epoch=pod.ready()["epoch"] + 1)
    assert pod.reload(phase="commit").status_code == 200
    assert pod.reload(**body).status_code == status


def test_the_pod_follows_no_model_of_the_served_epoch_under_another_version(
    tmp_path: Path,
) -> None:
    pod = Service(tmp_path, workers=1).promoted(1)
    try:
        pod.record("2", pod.bundle(1), epoch=1)
        assert pod.reload(phase="commit").status_code == 409
        assert pod.ready()["version"] == "1"
    finally:
        pod.stop()
