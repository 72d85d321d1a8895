"""The worker as a process: imports, memory, stop, full and slow disks, and two workers."""

import contextlib
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fraudops.audit.records import Prediction
from tests.support.serving import ULB_ROW, Service, problem
from tests.support.waiting import eventually

HEAVY = (
    "sklearn",
    "scikit_learn",
    "skops",
    "pandas",
    "mlflow",
    "scipy",
    "evidently",
    "matplotlib",
    "pyarrow",
    "onnxruntime",
)
BODY = json.dumps(ULB_ROW).encode()
HEADERS = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    # Its memory is measured, so `python` starts it and imports only what it needs.
    started = Service(tmp_path_factory.mktemp("process"), warm=False).promoted(1)
    yield started
    started.stop()


def memory_map(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def resident_megabytes(pid: int) -> float:
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) / 1024


def test_a_serving_worker_has_mapped_no_training_library_and_holds_less_than_120_mb(
    service: Service,
) -> None:
    for _ in range(20):
        service.predict()
    service.post("/predict/batch", json.dumps({"transactions": [ULB_ROW] * 500}))
    service.metrics()
    for pid in service.worker_pids():
        assert [name for name in HEAVY if f"/{name}" in memory_map(pid)] == []
        assert "/numpy" in memory_map(pid)
        assert resident_megabytes(pid) < 120


def test_neither_the_service_nor_its_bundle_verifier_imports_a_training_library(
    tmp_path: Path,
) -> None:
    code = (
        "import sys\n"
        "from fraudops.settings import InferenceSettings\n"
        "from services.inference import server\n"
        "from services.inference.pod import bundle_cache, bundle_fetch, startup\n"
        "from services.inference.application import create_app\n"
        "from services.inference.pod.worker import Drain\n"
        f"__import__('pathlib').Path({str(tmp_path / 'run')!r}).mkdir()\n"
        "create_app(InferenceSettings(), Drain())\n"
        "import fraudops.registry\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    environment = {"PATH": os.environ["PATH"], "FRAUDOPS_STATE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_counts_survive_their_worker_and_are_not_doubled(tmp_path: Path) -> None:
    service = Service(tmp_path).promoted(1)
    try:
        for _ in range(30):
            assert service.predict().status_code == 200
        victims = service.worker_pids()
        for pid in victims:
            os.kill(pid, signal.SIGKILL)

        def replaced() -> None:
            assert set(service.worker_pids()).isdisjoint(victims)
            assert len(service.worker_pids()) == 2

        eventually(replaced)
        for _ in range(10):
            assert service.predict().status_code == 200
        metrics = service.metrics()
        assert metrics['http_requests_total{endpoint="/predict",method="POST",status="200"}'] == 40
        assert (
            metrics['fraudops_predictions_total{decision="genuine"}']
            + metrics['fraudops_predictions_total{decision="fraud"}']
            == 40
        )
        assert (
            metrics["fraudops_serving_epoch"],
            metrics["fraudops_serving_version"],
            metrics["fraudops_workers"],
        ) == (1, 1, 2)
    finally:
        service.stop()


def test_a_full_spool_answers_503_leaves_nothing_unaudited_and_the_pod_stays_ready(
    tmp_path: Path,
) -> None:
    service = Service(
        tmp_path, workers=1, environment={"FRAUDOPS_AUDIT__SPOOL_MAX_BYTES": str(1 << 20)}
    ).promoted(1)
    batch = json.dumps({"transactions": [ULB_ROW] * 300})
    try:
        answers = [service.post("/predict/batch", batch) for _ in range(12)]
        assert [answer.status_code for answer in answers].count(200) >= 1
        refused = next(answer for answer in answers if answer.status_code != 200)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "spool is full" in problem(refused)["detail"]
        while (last := service.predict()).status_code == 200:
            ids = last.json()
        assert (last.status_code, last.headers["retry-after"]) == (503, "1")
        label = {
            "transaction_id": "t",
            "label": 1,
            "labelled_at": "2026-01-01T00:00:00Z",
            "source": "s",
        }
        assert service.post("/feedback", json.dumps({"labels": [label] * 2_000})).status_code == 503
        assert service.ready()["status"] == "ready"
        accepted = 300 * [answer.status_code for answer in answers].count(200)
        audited = [record for record in service.audited() if isinstance(record, Prediction)]
        assert ids["prediction_id"] in {record.id for record in audited}
        assert len(audited) % 300 == len(audited) - accepted
        metrics = service.metrics()
        assert metrics["fraudops_spool_refused_total"] >= 300
        # The shipper deletes segments: predictions are answered again without a restart.
        for segment in sorted(service.state.spool.glob("*.seg"))[:-1]:
            segment.unlink()
        eventually(lambda: _answers(service))
    finally:
        service.stop()


def _answers(service: Service) -> None:
    assert service.predict().status_code == 200


def test_a_worker_lives_although_its_spool_cannot_be_opened(tmp_path: Path) -> None:
    service = Service(tmp_path, workers=1).promoted(1)
    try:
        (first,) = service.worker_pids()
        service.state.spool.rename(tmp_path / "aside")
        service.state.spool.touch()
        os.kill(first, signal.SIGKILL)
        eventually(lambda: _replaced(service, first))
        answer = service.predict()
        assert (answer.status_code, "spool" in problem(answer)["detail"]) == (503, True)
        assert service.ready()["status"] == "ready"
        service.state.spool.unlink()
        eventually(lambda: _answers(service))
    finally:
        service.stop()


def _replaced(service: Service, pid: int) -> None:
    (new,) = service.worker_pids()
    assert new != pid


def test_fsync_always_answers_requests_of_several_connections_together(tmp_path: Path) -> None:
    service = Service(
        tmp_path, workers=1, environment={"FRAUDOPS_AUDIT__FSYNC": "always"}
    ).promoted(1)
    try:
        with httpx.Client(base_url=service.url) as client:
            threads = [
                threading.Thread(
                    target=lambda: [
                        client.post("/predict", json=ULB_ROW).raise_for_status() for _ in range(10)
                    ]
                )
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert len(service.audited()) == 40
    finally:
        service.stop()


def test_sequential_answers_on_one_connection_are_as_fast_with_two_workers_as_with_one(
    service: Service, tmp_path: Path
) -> None:
    """Two workers inherit their sockets, and Nagle's algorithm must be off on them too.

    Without uvloop it stays on and each such answer waits 40 ms, which is a ratio of a hundred.
    """
    alone = Service(tmp_path, workers=1).promoted(1)
    try:
        ratios = [_median_seconds(service) / _median_seconds(alone) for _ in range(3)]
    finally:
        alone.stop()
    assert min(ratios) < 10


def _median_seconds(service: Service) -> float:
    taken = []
    with contextlib.closing(
        http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    ) as connection:
        for _ in range(40):
            started = time.perf_counter()
            connection.request("POST", "/predict", BODY, HEADERS)
            connection.getresponse().read()
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)
