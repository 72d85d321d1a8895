"""The pod coordinator with real workers: all of them serve the same model."""

import asyncio
import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fraudops.audit.records import Prediction
from fraudops.model.manifest import MANIFEST
from fraudops.promotion.serving_record import ServingTarget
from fraudops.signing.credentials import Credentials
from fraudops.signing.kept import kept_path
from services.inference.pod.state import pod_state_path, read_pod_state, write
from services.inference.pod.worker_channel import Ask, RunFolder
from tests.support.http_client import HTTP
from tests.support.serving import ULB_ROW, Service, problem
from tests.support.waiting import eventually

BODY = json.dumps(ULB_ROW).encode()
HEADERS = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Yield a service with two workers; its folder's path is too long for a unix socket."""
    started = Service(tmp_path_factory.mktemp("pod") / ("long-" * 25)).promoted(1)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Yield a service that polls the record once a minute, so it acts on admin calls only."""
    started = Service(
        tmp_path_factory.mktemp("slow"), environment={"FRAUDOPS_RECORD_POLL_SECONDS": "60"}
    ).promoted(1)
    yield started
    started.stop()


def versions_now(service: Service, requests: int = 24) -> set[str]:
    # Each request opens a new connection, and the kernel spreads those over both workers.
    return {service.predict().json()["model_version"] for _ in range(requests)}


def move_to(service: Service, seed: int) -> int:
    """Write the record, activate its version in the pod, and return the epoch."""
    epoch = service.record(str(seed), service.bundle(seed))

    def moved() -> None:
        # Written again: the pod may have deleted the bundle, which it does not serve yet.
        service.bundle(seed)
        answer = service.reload(phase="commit", epoch=epoch)
        assert answer.status_code == 200, answer.text

    eventually(moved)
    return epoch


def begin_request(service: Service) -> socket.socket:
    """Send the head of a request; return the connection once the service has begun with it."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=10)
    connection.sendall(
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
    )
    assert connection.recv(100).startswith(b"HTTP/1.1 100")
    return connection


def test_reload_answers_once_every_worker_has_swapped(service: Service) -> None:
    for seed in (2, 3, 2):
        epoch = service.record(str(seed), service.bundle(seed))
        answer = service.reload()
        assert answer.status_code == 200
        body = answer.json()
        assert (body["pod"], body["epoch"], body["version"]) == ("local", epoch, str(seed))
        assert [(worker["epoch"], worker["version"]) for worker in body["workers"]] == [
            (epoch, str(seed))
        ] * 2
        assert versions_now(service) == {str(seed)}


def test_a_request_that_has_begun_ends_on_the_model_it_began_with(service: Service) -> None:
    move_to(service, 4)
    with contextlib.ExitStack() as connections:
        begun = [connections.enter_context(begin_request(service)) for _ in range(6)]
        move_to(service, 5)
        assert versions_now(service) == {"5"}
        for connection in begun:
            connection.sendall(BODY)
            assert b'"model_version":"4"' in _answer(connection)


def _answer(connection: socket.socket) -> bytes:
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(65_536)
    return received


def test_the_pod_follows_the_record_without_an_admin_call(service: Service) -> None:
    epoch = service.record("6", service.bundle(6))
    eventually(lambda: _at(service, epoch))
    assert versions_now(service) == {"6"}


def _at(service: Service, epoch: int) -> None:
    assert [worker["epoch"] for worker in service.ready()["workers"]] == [epoch] * 2


class Hammer:
    """Clients that send without pause on kept-alive connections and never repeat a request.

    `begun` counts the promotions that have begun, `step` those that have returned.
    """

    def __init__(self, service: Service, clients: int) -> None:
        self.service, self.step, self.begun = service, 0, 0
        self.failures: list[str] = []
        self.answered = 0
        self.history: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self) -> "Hammer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=20)
        while not self._stop.is_set():
            returned = self.step
            try:
                connection.request("POST", "/predict", BODY, HEADERS)
                answer = connection.getresponse()
                body = json.loads(answer.read())
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            if answer.status != 200:
                self.failures.append(str(body))
            elif body["model_version"] not in self.history[returned : self.begun + 1]:
                self.failures.append(
                    f"version {body['model_version']} after promotion {returned} had returned"
                )
            self.answered += 1
        connection.close()


def test_twenty_promotions_under_load_fail_no_request_and_take_effect_immediately(
    service: Service,
) -> None:
    move_to(service, 7)
    hammer = Hammer(service, clients=8)
    hammer.history.append("7")
    with hammer:
        for turn in range(1, 21):
            seed = 8 if turn % 2 else 7
            hammer.history.append(str(seed))
            hammer.begun = turn
            epoch = service.record(str(seed), service.bundle(seed))
            answer = service.reload(phase="commit", epoch=epoch)
            assert answer.status_code == 200, answer.text
            hammer.step = turn
            time.sleep(0.05)
    assert hammer.failures == []
    assert hammer.answered > 200


def test_a_killed_worker_is_replaced_and_the_new_one_serves_what_the_pod_serves(
    service: Service,
) -> None:
    epoch = move_to(service, 9)
    before = service.worker_pids()
    ids: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                ids.append(service.predict().json()["prediction_id"])
            except httpx.TransportError:
                continue

    client = threading.Thread(target=ask)
    client.start()
    os.kill(before[0], signal.SIGKILL)

    def replaced() -> None:
        pids = service.worker_pids()
        assert len(pids) == 2
        assert before[0] not in pids

    eventually(replaced)
    eventually(lambda: _at(service, epoch))
    answered = len(ids)
    eventually(lambda: _more(ids, answered + 20))
    stop.set()
    client.join()
    assert versions_now(service) == {"9"}
    audited = [record.id for record in service.audited() if isinstance(record, Prediction)]
    assert len(audited) == len(set(audited))
    assert set(ids) <= set(audited)
    assert not (service.state.run / f"worker-{before[0]}.sock").exists()


def _more(ids: list[str], than: int) -> None:
    assert len(ids) > than


def test_epochs_never_go_down_and_one_epoch_is_one_model(service: Service) -> None:
    epoch = move_to(service, 10)
    service.record("11", service.bundle(11), epoch=epoch - 1)
    lower = service.reload()
    assert (lower.status_code, problem(lower)["title"]) == (409, "Refused")
    assert f"epoch {epoch - 1} is behind epoch {epoch}" in lower.json()["detail"]

    def reported() -> None:
        errors = HTTP.get(f"{service.url}/model_info").json()["errors"]
        assert "went back" in errors["epoch"]

    eventually(reported)
    service.record("11", service.bundle(11), epoch=epoch)
    other = service.reload()
    assert (other.status_code, problem(other)["status"]) == (409, 409)
    assert versions_now(service) == {"10"}
    assert service.ready()["epoch"] == epoch
    move_to(service, 11)


def test_a_model_of_the_packaged_sample_is_marked_while_it_serves(service: Service) -> None:
    for seed, sample in ((40, False), (41, True), (42, False)):
        epoch = service.record(str(seed), service.bundle(seed, sample=sample))
        assert service.reload(phase="commit", epoch=epoch).status_code == 200
        assert HTTP.get(f"{service.url}/model_info").json()["model"]["trained_on_sample"] is sample
        assert service.metrics()["fraudops_model_trained_on_sample"] == sample


def test_reload_only_moves_to_what_the_record_names(service: Service) -> None:
    epoch = move_to(service, 12)
    ahead = service.reload(phase="commit", epoch=epoch + 1)
    # The pod has read the record too early, so the promoter must try again.
    assert ahead.status_code == 503
    assert f"at epoch {epoch}, not yet at {epoch + 1}" in problem(ahead)["detail"]
    assert ahead.headers["retry-after"] == "1"
    another = service.reload(version="99")
    assert another.status_code == 409
    assert "use promote" in another.json()["detail"]
    assert service.reload(version="12").status_code == 200


def test_prepare_changes_nothing_until_the_record_commits(slow: Service) -> None:
    before, digest = slow.ready(), slow.bundle(20)
    prepared = slow.reload(
        phase="prepare", version="20", digest=digest, epoch=before["epoch"] + 1, deadline_seconds=60
    )
    assert prepared.status_code == 200
    assert (prepared.json()["epoch"], prepared.json()["version"]) == (
        before["epoch"],
        before["version"],
    )
    assert versions_now(slow) == {before["version"]}
    # Signed now, because `record` would read the manifest after the cache has lost it.
    manifest = (slow.state.bundles / digest / MANIFEST).read_bytes()
    signed = Credentials(signed_verdict=slow.signed_verdict("20", manifest))
    # A prepared bundle is open, so it serves even if the cache has lost its files.
    for file in (slow.state.bundles / digest).iterdir():
        file.unlink()
    epoch = slow.record("20", digest, credentials=signed)
    assert slow.reload(phase="commit", epoch=epoch).status_code == 200
    assert versions_now(slow) == {"20"}
    slow.bundle(20)
    move_to(slow, 1)


def test_a_refused_prepare_has_changed_nothing_and_says_why(slow: Service) -> None:
    before, digest = slow.ready(), slow.bundle(21)
    alter(slow, digest)
    refused = slow.reload(phase="prepare", version="21", digest=digest, epoch=before["epoch"] + 1)
    # 503: the cached copy was refused, and without MLflow the pod cannot fetch another one.
    assert refused.status_code == 503
    assert "scorer.json has been altered" in problem(refused)["detail"]
    assert not (slow.state.bundles / digest).exists()
    assert slow.ready() == before
    assert versions_now(slow) == {before["version"]}
    unknown = slow.reload(phase="prepare", version="3", digest=slow.known(3))
    assert "not in the cache" in problem(unknown)["detail"]


@pytest.mark.parametrize("how", ["dropped", "expired"])
def test_a_prepared_bundle_is_closed_when_it_is_dropped_or_expires(slow: Service, how: str) -> None:
    before, seed = slow.ready(), 22 if how == "dropped" else 23
    digest, epoch = slow.bundle(seed), before["epoch"] + 1
    prepared = slow.reload(
        phase="prepare",
        version=str(seed),
        digest=digest,
        epoch=epoch,
        deadline_seconds=60 if how == "dropped" else 5,
    )
    assert prepared.status_code == 200, prepared.text
    if how == "dropped":
        assert (
            slow.reload(phase="drop", version=str(seed), digest=digest, epoch=epoch).status_code
            == 200
        )
    eventually(lambda: _nothing_prepared(slow))
    slow.record(str(seed), digest)
    alter(slow, digest)
    # No bundle is open any more, so the pod reads the altered file.
    assert "altered" in problem(slow.reload(phase="commit"))["detail"]
    assert versions_now(slow) == {before["version"]}
    move_to(slow, 1)


def alter(service: Service, digest: str) -> None:
    with (service.state.bundles / digest / "scorer.json").open("a") as file:
        file.write(" ")


def _nothing_prepared(service: Service) -> None:
    answers = asyncio.run(RunFolder(service.state.run).ask_all(Ask(op="state"), 5))
    assert [answer.reply.prepared for answer in answers if answer.reply] == [{}, {}]


def test_a_hung_worker_is_reported_and_ends_on_the_new_version_when_it_is_back(
    slow: Service,
) -> None:
    hung = slow.worker_pids()[0]
    digest = slow.bundle(24)
    assert slow.reload(phase="prepare", version="24", digest=digest).status_code == 200
    epoch = slow.record("24", digest)
    os.kill(hung, signal.SIGSTOP)
    try:
        eventually(lambda: _served_by_the_other(slow, epoch, f"worker {hung} does not answer"))
    finally:
        os.kill(hung, signal.SIGCONT)
    eventually(lambda: _reloaded(slow, epoch))
    assert versions_now(slow) == {"24"}


def _served_by_the_other(service: Service, epoch: int, reason: str) -> None:
    # Connections that the kernel has assigned to the stopped worker time out.
    answer = service.reload(phase="commit", epoch=epoch, deadline_seconds=3, timeout=6)
    assert answer.status_code == 503
    assert reason in problem(answer)["detail"]


def _reloaded(service: Service, epoch: int) -> None:
    assert service.reload(phase="commit", epoch=epoch).status_code == 200


def test_the_work_of_a_dead_coordinator_is_finished_from_the_state_file(service: Service) -> None:
    digest = service.bundle(13)
    before = read_pod_state(service.state)
    epoch = before.epoch + 1
    # The coordinator died here: the state file is written, and no worker is activated.
    write(
        pod_state_path(service.state), before.serving(ServingTarget(epoch, "13", digest), "cache")
    )
    service.record("13", digest, epoch=epoch)

    def finished() -> None:
        # Written again: the pod may have deleted the bundle, which it does not serve yet.
        service.bundle(13)
        _at(service, epoch)

    eventually(finished)
    assert versions_now(service) == {"13"}


def test_a_worker_started_after_the_pods_commit_serves_the_new_version_first(slow: Service) -> None:
    digest = slow.bundle(25)
    now = read_pod_state(slow.state)
    target = ServingTarget(now.epoch + 1, "25", digest)
    write(pod_state_path(slow.state), now.serving(target, "cache"))
    born = slow.worker_pids()
    os.kill(born[0], signal.SIGKILL)

    def replaced() -> None:
        workers = HTTP.get(f"{slow.url}/ready").json()["workers"]
        (new,) = [worker for worker in workers if worker["pid"] not in born]
        assert (new["epoch"], new["version"]) == (now.epoch + 1, "25")

    eventually(replaced)
    slow.record("25", digest, epoch=now.epoch + 1)
    _reloaded(slow, now.epoch + 1)
    assert versions_now(slow) == {"25"}


def test_the_cache_keeps_the_last_three_that_served(tmp_path: Path) -> None:
    service = Service(
        tmp_path, workers=1, environment={"FRAUDOPS_RECORD_POLL_SECONDS": "60"}
    ).promoted(1)
    try:
        digests = [service.bundle(1)]
        for seed in range(2, 7):
            move_to(service, seed)
            digests.append(service.bundle(seed))
        service.bundle(1)
        move_to(service, 7)
        kept = set(service.state.bundles.iterdir())
        bundles, needed = service.state.bundles, {service.bundle(7), *digests[-3:]}
        # Each bundle has its credentials next to it, and a prune removes both.
        assert kept == {
            path for digest in needed for path in (bundles / digest, kept_path(bundles, digest))
        }
    finally:
        service.stop()


def test_a_full_disk_under_the_poller_ends_no_worker(tmp_path: Path) -> None:
    pod = Service(tmp_path).promoted(1)
    try:
        before = pod.worker_pids()
        # RLIMIT_FSIZE acts like a full disk and needs no root: no state file can be written.
        for pid in before:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (8, resource.RLIM_INFINITY))
        good = pod.state.serving_record.read_bytes()
        pod.state.serving_record.write_text("no record")
        time.sleep(2)  # many polls, each with an error to write to the state file
        assert pod.worker_pids() == before
        for pid in before:
            resource.prlimit(
                pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
        pod.state.serving_record.write_bytes(good)
        move_to(pod, 2)
        assert versions_now(pod) == {"2"}
    finally:
        pod.stop()
