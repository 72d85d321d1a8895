"""A pod of the first release and one of this release through the same promotions."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fraudops.audit.records import Prediction
from fraudops.model.manifest import MANIFEST
from fraudops.promotion.admin_client import PodAdminClient
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import Promote, Rollback, decide_promotion, decide_rollback
from fraudops.promotion.local import FileLock, FileRecordStore, LocalRecords, SystemClock
from fraudops.promotion.ports import PodRef, PodRefusedError, PromotionPorts
from fraudops.promotion.protocol import Promoter
from fraudops.promotion.request import PromotionRequest, PromotionResult
from fraudops.promotion.serving_record import ModelRef, ServingRecord, ServingTarget
from tests.support.http_client import HTTP
from tests.support.releases import FIRST, unpack
from tests.support.serving import TOKEN, Service
from tests.support.waiting import eventually


class TwoPods:
    """Both pods as the promoter sees them: the port `Pods` over their admin calls."""

    def __init__(self, pods: dict[str, Service]) -> None:
        self.clients = {name: PodAdminClient(pod.url, TOKEN) for name, pod in pods.items()}

    async def list(self) -> Sequence[PodRef]:
        return [PodRef(name, await client.ready()) for name, client in self.clients.items()]

    async def desired_replicas(self) -> int:
        return len(self.clients)

    async def epoch(self, pod: PodRef) -> int:
        return await self.clients[pod.name].epoch()

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        await self.clients[pod.name].prepare(target, seconds)

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        return await self.clients[pod.name].activate(epoch, seconds)

    async def drop(self, pod: PodRef, target: ServingTarget) -> None:
        await self.clients[pod.name].drop(target)

    async def delete(self, pod: PodRef) -> None:
        raise PodRefusedError("these pods are not deleted")


@dataclass
class AliasesInMemory:
    versions: dict[str, str] = field(default_factory=dict)

    async def get(self, alias: str) -> str | None:
        return self.versions.get(alias)

    async def set(self, alias: str, version: str) -> None:
        self.versions[alias] = version

    async def drop(self, alias: str) -> None:
        self.versions.pop(alias, None)

    async def exists(self, version: str) -> bool:
        return True


class SilentJournal:
    async def write(self, attempt: Attempt) -> None:
        pass


@dataclass
class PodsOfTwoReleases:
    """Two pods that read one serving record, and a load that notes every answer."""

    pods: dict[str, Service]
    answered: dict[str, list[str]]
    failed: list[str]

    @property
    def record(self) -> ServingRecord:
        return FileRecordStore(self.pods["new"].state.serving_record).read()[0]

    def change(self, seed: int | None) -> PromotionResult:
        """Promote the version of that seed, or roll back."""
        if seed is not None:
            digests = {pod.bundle(seed) for pod in self.pods.values()}
            assert len(digests) == 1
        new = self.pods["new"]

        async def decide(record: ServingRecord) -> Promote | Rollback:
            if seed is None:
                return decide_rollback(record)
            digest = digests.pop()
            manifest = (new.state.bundles / digest / MANIFEST).read_bytes()
            model = ModelRef(
                version=str(seed),
                digest=digest,
                schema_fingerprint="of the bundle",
                verdict={"passed": True},
                signed_verdict=new.signed_verdict(str(seed), manifest),
            )
            return decide_promotion(record, model, "broadcast")

        state = new.state
        ports = PromotionPorts(
            records=LocalRecords(FileRecordStore(state.serving_record)),
            lock=FileLock(state.locks / "promotion.lock"),
            aliases=AliasesInMemory(),
            pods=TwoPods(self.pods),
            journal=SilentJournal(),
            clock=SystemClock(),
        )
        act = "promote" if seed is not None else "rollback"
        request = PromotionRequest(f"change-{seed}", "a test", decide, act)
        return asyncio.run(Promoter(ports).run(request))

    def ask(self, name: str, stop: threading.Event) -> None:
        while not stop.is_set():
            answer = self.pods[name].predict()
            if answer.status_code == 200:
                self.answered[name].append(answer.json()["prediction_id"])
            else:
                self.failed.append(answer.text)


@pytest.fixture(scope="module")
def first_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkout for all tests: Python compiles its modules in the first of them."""
    return unpack(FIRST, tmp_path_factory.mktemp("first-release"))


@pytest.fixture
def pods_of_two_releases(tmp_path: Path, first_release: Path) -> Iterator[PodsOfTwoReleases]:
    """Yield the pods: "old" runs the first release and "new" this one."""
    new = Service(tmp_path / "new", workers=1)
    old = Service(tmp_path / "old", workers=1, code=first_release)
    pods = {"old": old, "new": new}
    digests = {pod.bundle(1) for pod in pods.values()}
    new.record("1", digests.pop())
    old.state.serving_record.symlink_to(new.state.serving_record)
    for pod in pods.values():
        pod.start()
    for pod in pods.values():
        eventually(pod.ready)
    yield PodsOfTwoReleases(pods, {name: [] for name in pods}, [])
    for pod in pods.values():
        pod.stop()


def test_both_serve_through_a_promotion_and_a_rollback_and_lose_nothing(
    pods_of_two_releases: PodsOfTwoReleases,
) -> None:
    stop = threading.Event()
    clients = [
        threading.Thread(target=pods_of_two_releases.ask, args=(name, stop))
        for name in pods_of_two_releases.pods
    ]
    for client in clients:
        client.start()
    try:
        for seed, version in ((2, "2"), (3, "3"), (None, "2")):
            assert pods_of_two_releases.change(seed).outcome == "done"
            for pod in pods_of_two_releases.pods.values():
                assert pod.predict().json()["model_version"] == version
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert pods_of_two_releases.failed == []
    for name, pod in pods_of_two_releases.pods.items():
        audited = {record.id for record in pod.audited() if isinstance(record, Prediction)}
        assert pods_of_two_releases.answered[name]
        assert set(pods_of_two_releases.answered[name]) <= audited


def test_the_first_release_follows_a_record_with_fields_that_it_does_not_know(
    pods_of_two_releases: PodsOfTwoReleases,
) -> None:
    path = pods_of_two_releases.pods["new"].state.serving_record
    path.write_bytes(
        path.read_bytes().replace(b'{"current":{', b'{"later":1,"current":{"canary":"x",')
    )
    assert pods_of_two_releases.change(2).outcome == "done"
    assert pods_of_two_releases.record.unknown == {"later": 1}
    assert pods_of_two_releases.record.stack[0].unknown == {"canary": "x"}
    for pod in pods_of_two_releases.pods.values():
        assert pod.predict().json()["model_version"] == "2"


def test_an_admin_call_with_a_field_of_a_later_release_is_obeyed(
    pods_of_two_releases: PodsOfTwoReleases,
) -> None:
    answer = pods_of_two_releases.pods["new"].reload(
        phase="commit", epoch=1, reason_of_a_later_release="x"
    )
    assert answer.status_code == 200, answer.text


def test_the_old_pod_runs_the_first_release(pods_of_two_releases: PodsOfTwoReleases) -> None:
    """Guard the tests above, which else would compare this release with itself."""
    has_new_metric = {
        name: "fraudops_spool_newer_bytes" in HTTP.get(f"{pod.url}/metrics").text
        for name, pod in pods_of_two_releases.pods.items()
    }
    assert has_new_metric == {"old": False, "new": True}
