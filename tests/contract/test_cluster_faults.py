"""The promotion's ports in a cluster when the API fails, is silent, or loses an answer."""

from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from fraudops.cluster import api
from fraudops.cluster.api import Cluster, ForbiddenError, NotFoundError
from fraudops.cluster.events import EventJournal
from fraudops.cluster.pods import ClusterPods
from fraudops.cluster.records import ConfigMapRecords
from fraudops.cluster.rollout import ANNOTATION, DeploymentRollouts
from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.attempt import Attempt, Outcome
from fraudops.promotion.history import read_history
from fraudops.promotion.journal import DatabaseJournal
from fraudops.promotion.ports import PodRef, StaleRecordError, UnknownWriteError
from fraudops.promotion.serving_record import EMPTY, ServingTarget
from tests.support.cluster_objects import create_configmap, create_deployment, create_pod
from tests.support.cluster_pods import LABELS, READY
from tests.support.cluster_ports import RELEASE
from tests.support.kube_api import Fault, KubeApi
from tests.support.processes import free_port
from tests.support.promotion_ports import reserved

# What the API, or a connection to it, can do to a request.
FAILURES: list[Any] = [429, 500, 502, 503, 504, "cut", "silence"]


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request wait for its answer for less than a second."""
    monkeypatch.setattr(api, "ORDINARY", aiohttp.ClientTimeout(total=0.5))


class TestCalls:
    """Errors of `Cluster.call`."""

    @pytest.mark.parametrize("then", FAILURES)
    async def test_a_failed_read_is_a_store_that_is_down_and_is_not_repeated(
        self, kube_api: KubeApi, cluster: Cluster, then: Any
    ) -> None:
        path = await create_configmap(cluster, "a")
        # aiohttp itself repeats a read once on an idle connection that is cut.
        sent = 2 if then == "cut" else 1
        kube_api.faults.append(Fault("GET", path, then, times=sent))
        kube_api.requests.clear()
        with pytest.raises(StoreDownError, match="the Kubernetes API"):
            await cluster.call("GET", path)
        assert len(kube_api.requests) == sent

    @pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
    @pytest.mark.parametrize("then", FAILURES)
    async def test_a_write_without_a_good_answer_is_unknown_and_is_not_repeated(
        self, kube_api: KubeApi, cluster: Cluster, then: Any, applied: bool
    ) -> None:
        path = await create_configmap(cluster, "a")
        for method, where, body in (
            ("PATCH", path, {"data": {"k": "v"}}),
            ("POST", path.rpartition("/")[0], {"metadata": {"name": "b"}}),
        ):
            kube_api.faults.append(Fault(method, where, then, applied))
            kube_api.requests.clear()
            with pytest.raises(UnknownWriteError, match="the Kubernetes API"):
                await cluster.call(method, where, body)
            assert kube_api.requests == [(method, where)]
        assert ("data" in await cluster.call("GET", path)) == applied

    async def test_a_slow_answer_is_waited_for(self, kube_api: KubeApi, cluster: Cluster) -> None:
        path = await create_configmap(cluster, "a", {"k": "v"})
        kube_api.faults.append(Fault("GET", path, delay_seconds=0.1))
        assert (await cluster.call("GET", path))["data"] == {"k": "v"}

    async def test_a_server_that_cannot_be_connected_to_has_changed_nothing(
        self, kube_api: KubeApi, cluster: Cluster
    ) -> None:
        cluster._api.configuration.host = f"http://127.0.0.1:{free_port()}"
        for method in ("GET", "PATCH", "POST", "DELETE"):
            with pytest.raises(StoreDownError, match="does not answer"):
                await cluster.call(method, cluster.path("v1", "configmaps", "a"))

    async def test_a_refusal_is_neither_temporary_nor_a_changed_object(
        self, kube_api: KubeApi, cluster: Cluster, stranger: Cluster
    ) -> None:
        path = await create_configmap(cluster, "a")
        with pytest.raises(ForbiddenError, match='cannot patch resource "configmaps"'):
            await stranger.call("PATCH", path, {"data": {"k": "v"}})
        with pytest.raises(FraudopsError, match=r"422 for PATCH .*is not a string") as invalid:
            await cluster.call("PATCH", path, {"data": {"k": 1}})
        assert type(invalid.value) is FraudopsError
        with pytest.raises(StaleRecordError):
            await cluster.call("PATCH", path, [{"op": "remove", "path": "/data/k"}], patch="json")
        cluster._api.configuration.api_key = {"BearerToken": "Bearer expired"}
        with pytest.raises(ForbiddenError, match="does not accept this caller's credentials"):
            await cluster.call("GET", path)

    async def test_an_answer_that_is_not_of_the_api_is_no_success(
        self, kube_api: KubeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = await create_configmap(cluster, "a")
        monkeypatch.setattr(kube_api, "page", "<html>a proxy</html>")
        with pytest.raises(StoreDownError, match="something other than JSON"):
            await cluster.call("GET", path)
        with pytest.raises(UnknownWriteError, match="something other than JSON"):
            await cluster.call("PATCH", path, {"data": {}})


class TestRecords:
    """Lost answers of writes of the record."""

    @pytest.mark.parametrize("then", ["cut", 504])
    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    @pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
    async def test_after_an_unknown_write_the_record_says_whether_it_happened(
        self, kube_api: KubeApi, cluster: Cluster, then: Any, method: str, applied: bool
    ) -> None:
        records, before, token = ConfigMapRecords(cluster, RELEASE), EMPTY, None
        if method == "PATCH":
            before, token = reserved(1), await records.compare_and_set(reserved(1), None)
        kube_api.faults.append(Fault(method, "configmaps", then, applied))
        with pytest.raises(UnknownWriteError):
            await records.compare_and_set(reserved(2), token)
        found, now = await records.read()
        assert found == (reserved(2) if applied else before)
        if applied:
            with pytest.raises(StaleRecordError):
                await records.compare_and_set(reserved(3), token)
        await records.compare_and_set(reserved(3), now)

    async def test_a_missing_record_and_a_silent_store_differ(
        self, kube_api: KubeApi, cluster: Cluster
    ) -> None:
        records = ConfigMapRecords(cluster, RELEASE)
        kube_api.faults.append(Fault("GET", "configmaps", 503))
        with pytest.raises(StoreDownError):
            await records.read()
        assert await records.read() == (EMPTY, None)


class TestRollouts:
    """Lost answers of writes of the annotation."""

    @pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
    async def test_after_an_unknown_write_the_rollout_can_be_repeated_and_undone(
        self, kube_api: KubeApi, cluster: Cluster, applied: bool
    ) -> None:
        path = await create_deployment(cluster, f"{RELEASE}-inference", {"other": "kept"})
        rollouts = DeploymentRollouts(cluster, RELEASE)
        for step in (
            lambda: rollouts.annotate(ServingTarget(5, "8", "e")),
            lambda: rollouts.undo(5),
        ):
            kube_api.faults.append(Fault("PATCH", "deployments", "cut", applied))
            with pytest.raises(UnknownWriteError):
                await step()
            await step()
            template = (await cluster.call("GET", path))["spec"]["template"]["metadata"]
            assert template["annotations"]["other"] == "kept"
        assert ANNOTATION not in template["annotations"]


class TestPods:
    """Pods that outlive their deletion, by the API server's clock."""

    @pytest.mark.parametrize("hours", [-1, 0, 1])
    async def test_a_pod_is_lost_10_s_after_its_end_by_the_clock_of_the_server(
        self, kube_api: KubeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, hours: int
    ) -> None:
        start = kube_api.now() + timedelta(hours=hours)
        monkeypatch.setattr(kube_api, "now", lambda: start)
        await create_pod(cluster, "a", labels=LABELS, grace_seconds=30, status=READY)
        pods = ClusterPods(cluster, RELEASE, "token")
        await pods.delete(PodRef("a", ready=True))
        for seconds, lost in (
            (0, None),
            (40, None),
            (41, "it should have ended 11 s ago"),
            (3630, "it should have ended 3600 s ago"),
        ):
            now = start + timedelta(seconds=seconds)
            monkeypatch.setattr(kube_api, "now", lambda now=now: now)
            (pod,) = await pods.list()
            assert (pod.terminating, pod.lost) == (True, lost)

    async def test_the_list_of_pods_and_their_number_are_not_known_while_the_api_is_down(
        self, kube_api: KubeApi, cluster: Cluster
    ) -> None:
        await create_deployment(cluster, f"{RELEASE}-inference", replicas=1)
        pods = ClusterPods(cluster, RELEASE, "token")
        kube_api.faults += [Fault("GET", "pods", 503), Fault("GET", "deployments", "cut", times=2)]
        for read in (pods.list, pods.desired_replicas):
            with pytest.raises(StoreDownError):
                await read()
        assert (await pods.list(), await pods.desired_replicas()) == ([], 1)


class TestEvents:
    """Events of a promotion, next to its row in a real PostgreSQL."""

    ATTEMPT = Attempt(
        request="job-1", requested_by="ann", at="2026-11-29T10:00:00+00:00", version="7"
    )

    @pytest.fixture
    def said(self) -> list[str]:
        return []

    @pytest.fixture
    def journal(self, cluster: Cluster, database: str, said: list[str]) -> EventJournal:
        return EventJournal(DatabaseJournal(database, "fraud"), cluster, RELEASE, said.append)

    async def events(self, cluster: Cluster) -> list[dict[str, Any]]:
        found = await cluster.call("GET", cluster.path("v1", "events"))
        return sorted(found["items"], key=lambda event: str(event["lastTimestamp"]))

    def ended(self, outcome: Outcome, second: int, reason: str | None = None) -> Attempt:
        at = f"2026-11-29T10:00:{second:02d}+00:00"
        return replace(self.ATTEMPT, outcome=outcome, reason=reason, finished_at=at)

    async def test_an_ending_is_an_event_on_the_deployment(
        self, cluster: Cluster, journal: EventJournal
    ) -> None:
        await journal.write(self.ATTEMPT)
        await journal.write(self.ended("done", 1))
        await journal.write(replace(self.ended("failed", 2, "x" * 2000), act="rollback"))
        done, failed = await self.events(cluster)
        assert (done["type"], done["reason"]) == ("Normal", "PromotionDone")
        assert done["message"] == "promote version 7 by broadcast: done"
        # The time of the outcome, which may be long before the row could be written.
        assert done["lastTimestamp"] == "2026-11-29T10:00:01Z"
        assert (failed["type"], failed["reason"]) == ("Warning", "PromotionFailed")
        assert failed["message"].startswith("rollback version 7 by broadcast: failed (xxx")
        assert len(failed["message"]) == 1000
        assert done["involvedObject"]["name"] == f"{RELEASE}-inference"

    async def test_a_row_that_is_written_again_adds_no_event(
        self, cluster: Cluster, journal: EventJournal, said: list[str]
    ) -> None:
        for _ in range(2):
            await journal.write(self.ended("unconfirmed", 1))
        assert len(await self.events(cluster)) == 1
        # The reconciler derives this row from a record of release 0.2.0 in every run.
        await journal.write(replace(self.ATTEMPT, request="job-0", outcome="done"))
        assert len(await self.events(cluster)) == 1
        assert said == []

    @pytest.mark.parametrize("then", [400, 403, 404, 429, 503, "cut", "silence"])
    async def test_an_event_that_cannot_be_written_is_said_and_never_loses_the_row(
        self,
        kube_api: KubeApi,
        journal: EventJournal,
        database: str,
        said: list[str],
        then: Any,
    ) -> None:
        kube_api.faults.append(Fault("POST", "events", then))
        await journal.write(self.ended("done", 1))
        assert said[-1].startswith("no Event was written: ")
        assert [act.outcome for act in await read_history(database, "fraud", 9)] == ["done"]

    async def test_without_postgresql_the_row_is_late_and_its_event_too(
        self, cluster: Cluster, said: list[str]
    ) -> None:
        nowhere = DatabaseJournal(f"postgresql://me@127.0.0.1:{free_port()}/none", "fraud")
        with pytest.raises(StoreDownError, match="PostgreSQL"):
            await EventJournal(nowhere, cluster, RELEASE, said.append).write(self.ended("done", 1))
        assert await self.events(cluster) == []


async def test_a_missing_object_raises_its_own_error(cluster: Cluster) -> None:
    with pytest.raises(NotFoundError, match="configmaps/nothing is not there"):
        await cluster.call("GET", cluster.path("v1", "configmaps", "nothing"))
