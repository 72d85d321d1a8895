"""The promotion's ports on a real cluster: ConfigMap, Lease and pod template."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fraudops.cluster import lease
from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.cluster.lease import LeaseLock
from fraudops.cluster.records import ConfigMapRecords
from fraudops.cluster.rollout import ANNOTATION, DeploymentRollouts
from fraudops.promotion.ports import Lock, Records, StaleRecordError
from fraudops.promotion.serving_record import ServingTarget
from tests.cluster.release import Release
from tests.support.promotion_ports import LockContract, RecordsContract

RELEASE = "shop"
OTHER = "example.com/other"


@pytest.fixture
async def cluster(release: Release) -> AsyncIterator[Cluster]:
    """Yield a client for a new namespace, which is deleted after the test."""
    name = f"fraudops-test-{uuid.uuid4().hex[:8]}"
    async with Cluster.connect(name) as client:
        await client.call(
            "POST",
            "/api/v1/namespaces",
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        )
        try:
            yield client
        finally:
            await client.call("DELETE", f"/api/v1/namespaces/{name}")


async def make_lease(cluster: Cluster) -> str:
    """Create the Lease without a spec, as the chart does; return its path."""
    group = "coordination.k8s.io/v1"
    made = {"apiVersion": group, "kind": "Lease", "metadata": {"name": f"{RELEASE}-promotion"}}
    await cluster.call("POST", cluster.path(group, "leases"), made)
    return cluster.path(group, "leases", f"{RELEASE}-promotion")


class TestConfigMapRecords(RecordsContract):
    @pytest.fixture
    def records(self, cluster: Cluster) -> Records:
        return ConfigMapRecords(cluster, RELEASE)

    async def test_an_empty_configmap_of_the_setup_is_no_record(
        self, cluster: Cluster, records: Records
    ) -> None:
        made = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"{RELEASE}-serving", "labels": {"made-by": "setup"}},
        }
        await cluster.call("POST", cluster.path("v1", "configmaps"), made)
        await self.test_the_record_is_empty_until_the_first_write_creates_it(records)
        stored = await cluster.call("GET", cluster.path("v1", "configmaps", f"{RELEASE}-serving"))
        assert stored["metadata"]["labels"] == {"made-by": "setup"}


class TestLease(LockContract):
    @pytest.fixture
    async def locks(self, cluster: Cluster) -> tuple[Lock, Lock]:
        await make_lease(cluster)
        return tuple(
            LeaseLock(cluster, RELEASE, name, lambda _: None, wait_seconds=2)
            for name in ("one", "two")
        )  # type: ignore[return-value]


async def test_a_lease_is_renewed_while_it_is_held_and_taken_over_when_its_holder_is_silent(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "DURATION_SECONDS", 3)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.5)
    path = await make_lease(cluster)
    living, other = (
        LeaseLock(cluster, RELEASE, name, lambda _: None, wait_seconds=20)
        for name in ("living", "other")
    )
    holding, following = living.hold("job 1"), other.hold("job 2")
    await holding.__aenter__()
    taking = asyncio.create_task(following.__aenter__())
    await asyncio.sleep(5)
    assert (taking.done(), await living.held()) == (False, True)
    # After its next renewal the holder is silent, like a process that is paused.
    monkeypatch.setattr(lease, "RENEW_SECONDS", 60.0)
    await taking
    assert (await other.held(), await living.held()) == (True, False)
    await holding.__aexit__(None, None, None)
    assert (await cluster.call("GET", path))["spec"]["holderIdentity"] == "other"
    await following.__aexit__(None, None, None)


async def test_a_lease_is_released_even_while_its_renewal_is_being_sent(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    path = await make_lease(cluster)
    call, sent = cluster.call, list[asyncio.Task[Any]]()

    async def slow(method: str, *arguments: Any, **more: Any) -> Any:
        # A request that was sent arrives at the API even if the task that sent it is cancelled.
        async def late() -> Any:
            await asyncio.sleep(0.2)
            return await call(method, *arguments, **more)

        if method != "PATCH":
            return await call(method, *arguments, **more)
        sent.append(asyncio.create_task(late()))
        return await asyncio.shield(sent[-1])

    monkeypatch.setattr(cluster, "call", slow)
    async with LeaseLock(cluster, RELEASE, "one", lambda _: None, wait_seconds=2).hold("job"):
        await asyncio.sleep(0.15)  # the first renewal is sent and has not arrived yet
    await asyncio.gather(*sent, return_exceptions=True)
    assert (await call("GET", path))["spec"]["holderIdentity"] == ""


class TestRollouts:
    """Tests of the annotation on the pod template of `<release>-inference`."""

    @pytest.fixture
    async def annotations(self, cluster: Cluster) -> Any:
        labels = {"app": "shop"}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "inference", "image": "none"}]},
        }
        made = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": f"{RELEASE}-inference"},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
        }
        await cluster.call("POST", cluster.path("apps/v1", "deployments"), made)
        path = cluster.path("apps/v1", "deployments", f"{RELEASE}-inference")

        async def read(change: dict[str, str | None] | None = None) -> dict[str, str]:
            if change:
                await cluster.call(
                    "PATCH", path, {"spec": {"template": {"metadata": {"annotations": change}}}}
                )
            return (await cluster.call("GET", path))["spec"]["template"]["metadata"].get(
                "annotations"
            ) or {}

        return read

    async def test_the_annotation_names_the_target_and_is_replaced_by_the_next_one(
        self, cluster: Cluster, annotations: Any
    ) -> None:
        rollouts = DeploymentRollouts(cluster, RELEASE)
        await rollouts.annotate(ServingTarget(4, "7", "d" * 64))
        assert await annotations() == {ANNOTATION: f"4/7/{'d' * 64}"}
        await annotations({OTHER: "kept"})
        await rollouts.annotate(ServingTarget(5, "8", "e" * 64))
        assert await annotations() == {ANNOTATION: f"5/8/{'e' * 64}", OTHER: "kept"}

    async def test_undo_removes_its_own_epoch_and_no_other(
        self, cluster: Cluster, annotations: Any
    ) -> None:
        rollouts = DeploymentRollouts(cluster, RELEASE)
        await annotations({OTHER: "kept"})
        await rollouts.annotate(ServingTarget(5, "8", "e"))
        await rollouts.undo(4)
        assert ANNOTATION in await annotations()
        await rollouts.undo(5)
        await rollouts.undo(5)
        assert await annotations() == {OTHER: "kept"}

    async def test_an_annotation_that_changed_since_it_was_read_is_left_alone(
        self, cluster: Cluster, annotations: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rollouts = DeploymentRollouts(cluster, RELEASE)
        await rollouts.annotate(ServingTarget(5, "8", "e"))
        before = await annotations()
        await annotations({ANNOTATION: "6/9/f"})

        async def as_it_was() -> dict[str, str]:
            return dict(before)

        monkeypatch.setattr(rollouts, "_annotations", as_it_was)
        with pytest.raises(StaleRecordError):
            await rollouts.annotate(ServingTarget(7, "1", "a"))
        with pytest.raises(StaleRecordError):
            await rollouts.undo(5)
        assert (await annotations())[ANNOTATION] == "6/9/f"


async def test_a_missing_object_raises_its_own_error(cluster: Cluster) -> None:
    with pytest.raises(NotFoundError):
        await cluster.call("GET", cluster.path("v1", "configmaps", "nothing"))
