"""What a starting pod writes before its first worker starts.

A thread answers on the bundle verifier's socket. The tests so decide what the verifier finds, and
when it dies.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from fraudops.errors import BundleError
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import (
    ServingTarget,
)
from fraudops.settings import ClusterSettings, InferenceSettings
from fraudops.signing.credentials import Credentials
from fraudops.signing.verdicts import SignedVerdict
from fraudops.state import State
from services.inference.pod import startup
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.bundle_verifier import BundleRequest, VerificationOutcome
from services.inference.pod.startup import settle
from services.inference.pod.state import (
    RecordView,
    pod_state_path,
    read_pod_state,
    read_record_view,
    record_view_path,
    write,
)
from services.inference.pod.worker_channel import RunFolder
from tests.support.serving_records import record

OLD, SERVED, NEW = "a" * 64, "b" * 64, "c" * 64
BEFORE = PodState(epoch=4, version="1", digest=SERVED, source="peer", served=(OLD,))
GOOD = VerificationOutcome(source="cache")
REFUSED = VerificationOutcome(error="it was altered", exit_code=BundleError.exit_code)


@dataclass
class Verifier:
    """Answers every request with `outcome`. It is dead until `keep` has started it."""

    listener: socket.socket
    outcome: VerificationOutcome = GOOD
    alive: bool = True
    silent: bool = False
    starts: int = 0
    looks: int = 0
    requests: list[BundleRequest] = field(default_factory=list)

    def is_alive(self) -> bool:
        self.looks += 1
        assert self.looks < 50, "the dead verifier is not replaced"
        return self.alive

    def keep(self) -> None:
        assert not self.alive, "the verifier lives"
        self.starts, self.alive = self.starts + 1, True

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                with connection, contextlib.suppress(OSError):
                    self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        line = connection.makefile("rb").readline()
        # A process that dies never answers, and the master keeps the connection waiting.
        if self.alive and not self.silent:
            self.requests.append(msgspec.json.decode(line, type=BundleRequest))
            connection.sendall(msgspec.json.encode(self.outcome) + b"\n")
        else:
            connection.settimeout(10)
            connection.recv(1)


@dataclass
class StartingPod:
    settings: InferenceSettings
    state: State
    cache: BundleCache
    verifier: Verifier

    def settle(self) -> PodState:
        settle(self.settings, self.state, self.cache, self.verifier)  # type: ignore[arg-type]
        return read_pod_state(self.state)

    def cached(self, *digests: str) -> None:
        for digest in digests:
            (self.state.bundles / digest).mkdir()

    def promoted(self, at: ServingTarget, reserved: ServingTarget | None = None) -> None:
        store = FileRecordStore(self.state.serving_record)
        store.compare_and_set(record(at, reserved), b"")


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[StartingPod]:
    state = State.at(tmp_path)
    for folder in (state.run, state.bundles):
        folder.mkdir()
    run = RunFolder(state.run)
    verifier = Verifier(run.listen_for_verifications())
    thread = threading.Thread(target=verifier.serve, daemon=True)
    thread.start()
    cache = BundleCache(state.bundles, run, state.public_keys)
    yield StartingPod(InferenceSettings(state=tmp_path), state, cache, verifier)
    # `close` alone does not end the thread's `accept`.
    verifier.listener.shutdown(socket.SHUT_RDWR)
    verifier.listener.close()
    thread.join(5)


def test_a_cached_and_verified_bundle_of_the_record_serves_from_the_start(
    pod: StartingPod,
) -> None:
    write(pod_state_path(pod.state), BEFORE)
    pod.promoted(ServingTarget(5, "2", NEW))
    pod.cached(NEW)
    served = (SERVED, OLD)
    assert pod.settle() == PodState(
        epoch=5, version="2", digest=NEW, source="cache", served=served, restarted=True
    )
    # The start never downloads: the pod could not answer until the download ends.
    entry = record(ServingTarget(5, "2", NEW)).current
    assert entry is not None
    offered = (entry.credentials,)
    assert pod.verifier.requests == [BundleRequest("2", NEW, fetch=False, credentials=offered)]
    assert pod.cache.is_verified(ServingTarget(5, "2", NEW))
    assert read_record_view(pod.state) == RecordView()


def test_a_start_verifies_by_the_records_credentials_and_without_it_by_the_kept_ones(
    pod: StartingPod,
) -> None:
    new = ServingTarget(5, "2", NEW)
    signed = SignedVerdict(verdict="v", signature="s")
    pod.promoted(new)
    store = FileRecordStore(pod.state.serving_record)
    held, token = store.read()
    assert held.current is not None
    current = msgspec.structs.replace(held.current, signed_verdict=signed)
    store.compare_and_set(msgspec.structs.replace(held, current=current), token)
    pod.cached(NEW)
    assert pod.settle().target == new
    pod.state.serving_record.write_text("{")
    assert pod.settle().target == new
    proof = Credentials(signed_verdict=signed)
    assert [request.credentials for request in pod.verifier.requests] == [(proof,), None]


def test_a_start_forgets_what_the_last_container_saw_of_the_record(pod: StartingPod) -> None:
    seen = RecordView(target=ServingTarget(4, "1", SERVED), ready=True, error="an error")
    write(record_view_path(pod.state), seen)
    assert pod.settle() == PodState()
    assert read_record_view(pod.state) == RecordView()


def test_a_pod_whose_bundle_is_not_cached_serves_nothing_and_keeps_its_epoch(
    pod: StartingPod,
) -> None:
    write(pod_state_path(pod.state), BEFORE)
    pod.promoted(ServingTarget(5, "2", NEW))
    # A file in the bundle's place is no bundle.
    (pod.state.bundles / NEW).touch()
    assert pod.settle() == PodState(epoch=4, served=(OLD,))
    assert pod.verifier.requests == []


def test_a_refused_bundle_is_not_served_and_the_pod_says_why(pod: StartingPod) -> None:
    write(pod_state_path(pod.state), BEFORE)
    new = ServingTarget(5, "2", NEW)
    pod.promoted(new)
    pod.cached(NEW)
    pod.verifier.outcome = REFUSED
    # The bundle that served last stays in the cache, for the way back.
    assert pod.settle() == PodState(epoch=4, served=(SERVED, OLD))
    assert read_record_view(pod.state) == RecordView(target=new, refused="it was altered")


@pytest.mark.parametrize("damage", ["not JSON", "a folder", "no ServiceAccount"])
def test_a_pod_serves_what_it_served_while_the_record_cannot_be_read(
    pod: StartingPod, damage: str
) -> None:
    write(pod_state_path(pod.state), BEFORE)
    pod.cached(SERVED)
    if damage == "no ServiceAccount":
        # The pod of a release reads its namespace from the account's folder, which this one lacks.
        cluster = ClusterSettings(release="fraudops")
        pod.settings = InferenceSettings(state=pod.state.root, cluster=cluster)
    elif damage == "a folder":
        pod.state.serving_record.mkdir()
    else:
        pod.state.serving_record.write_text("{")
    assert pod.settle() == msgspec.structs.replace(BEFORE, restarted=True)


def test_a_verifier_that_dies_before_its_answer_is_replaced_and_asked_again(
    pod: StartingPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the looks at the verifier the start would wait so long, and refuse the bundle.
    monkeypatch.setattr(startup, "VERIFICATION_SECONDS", 10.0)
    write(pod_state_path(pod.state), BEFORE)
    pod.cached(SERVED)
    pod.verifier.alive = False
    assert pod.settle() == msgspec.structs.replace(BEFORE, restarted=True)
    assert pod.verifier.starts == 1


def test_a_verifier_that_lives_and_never_answers_does_not_hold_the_start(
    pod: StartingPod, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "VERIFICATION_SECONDS", 0.3)
    write(pod_state_path(pod.state), BEFORE)
    pod.cached(SERVED)
    pod.verifier.silent = True
    assert pod.settle().target is None
    assert "was not fetched and verified" in str(read_record_view(pod.state).refused)


def test_a_new_pod_of_a_rollout_starts_with_what_the_record_reserves_for_it(
    pod: StartingPod,
) -> None:
    new = ServingTarget(5, "2", NEW)
    pod.settings = InferenceSettings(state=pod.state.root, rollout=str(new))
    pod.promoted(ServingTarget(4, "1", SERVED), reserved=new)
    pod.cached(SERVED, NEW)
    assert pod.settle().target == new
