"""The contract of the promotion's ports in a cluster.

The same tests run on the fake API server and on a real one. The fixture `cluster` is a client of an
empty namespace.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.cluster.kept import NEVER_NAMED, is_marked, kept_metadata
from fraudops.cluster.lease import LeaseLock, LeaseTimes
from fraudops.cluster.records import ConfigMapRecords
from fraudops.cluster.rollout import ANNOTATION, DeploymentRollouts
from fraudops.promotion.ports import Lock, LockBusyError, Records, StaleRecordError
from fraudops.promotion.serving_record import (
    CONFIG_MAP_KEY,
    EMPTY,
    ServingTarget,
    encode,
)
from tests.support.cluster_objects import (
    create_configmap,
    create_deployment,
    create_lease,
)
from tests.support.promotion_ports import LockContract, RecordsContract, reserved
from tests.support.serving_records import record

RELEASE = "shop"
LEASE = f"{RELEASE}-promotion"
OTHER = "example.com/other"
COMMITTED = record(ServingTarget(1, "1", "1" * 64))
QUICK = LeaseTimes(duration=2, renew=0.2, pause=0.1)
Change = Callable[[], Awaitable[Any]]


async def soon(check: Callable[[], Awaitable[bool]], seconds: float = 30.0) -> None:
    """Wait until the check is true."""
    end = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < end, "it did not become true in time"
        await asyncio.sleep(0.05)


def lock(cluster: Cluster, identity: str, wait_seconds: float) -> LeaseLock:
    return LeaseLock(cluster, RELEASE, identity, lambda _: None, wait_seconds, QUICK)


async def write_lease(cluster: Cluster, holder: str, renewed: datetime, seconds: int = 2) -> None:
    """Renew the Lease as another promoter whose clock shows `renewed`."""
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": seconds,
        "renewTime": renewed.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    }
    await cluster.call("PATCH", lease_path(cluster), {"spec": spec})


def lease_path(cluster: Cluster) -> str:
    return cluster.path("coordination.k8s.io/v1", "leases", LEASE)


async def holder_of(cluster: Cluster) -> str:
    return str((await cluster.call("GET", lease_path(cluster)))["spec"].get("holderIdentity", ""))


def before_the_next_patch(
    monkeypatch: pytest.MonkeyPatch, cluster: Cluster, change: Change
) -> None:
    """Make another writer's change between the next read and its write."""
    call = cluster.call

    async def interrupted(method: str, *arguments: Any, **more: Any) -> Any:
        if method == "PATCH":
            monkeypatch.setattr(cluster, "call", call)
            await change()
        return await call(method, *arguments, **more)

    monkeypatch.setattr(cluster, "call", interrupted)


class ConfigMapContract(RecordsContract):
    """Tests of the record in a ConfigMap."""

    @pytest.fixture
    def records(self, cluster: Cluster) -> Records:
        return ConfigMapRecords(cluster, RELEASE)

    async def test_an_empty_configmap_of_the_setup_is_no_record(
        self, cluster: Cluster, records: Records
    ) -> None:
        path = await create_configmap(cluster, f"{RELEASE}-serving", labels={"made-by": "setup"})
        await self.test_the_record_is_empty_until_the_first_write_creates_it(records)
        stored = await cluster.call("GET", path)
        assert stored["metadata"]["labels"] == {"made-by": "setup"}

    async def test_a_token_is_stale_when_another_writer_touched_the_configmap(
        self, cluster: Cluster, records: Records
    ) -> None:
        token = await records.compare_and_set(reserved(1), None)
        path = cluster.path("v1", "configmaps", f"{RELEASE}-serving")
        await cluster.call("PATCH", path, {"metadata": {"labels": {"touched": "yes"}}})
        with pytest.raises(StaleRecordError):
            await records.compare_and_set(reserved(2), token)

    async def test_a_token_is_stale_when_the_configmap_was_deleted(
        self, cluster: Cluster, records: Records
    ) -> None:
        token = await records.compare_and_set(reserved(1), None)
        await cluster.call("DELETE", cluster.path("v1", "configmaps", f"{RELEASE}-serving"))
        with pytest.raises(StaleRecordError):
            await records.compare_and_set(reserved(2), token)
        assert await records.read() == (EMPTY, None)

    async def test_the_first_commit_removes_the_mark_of_the_setup(
        self, cluster: Cluster, records: Records
    ) -> None:
        path = await self._marked(cluster)
        token = await records.compare_and_set(reserved(1), (await records.read())[1])
        assert is_marked(await cluster.call("GET", path))
        await records.compare_and_set(COMMITTED, token)
        found = await cluster.call("GET", path)
        assert found["metadata"]["annotations"] == {"of": "the site"}

    async def test_the_reconciler_removes_a_mark_that_a_restore_has_left(
        self, cluster: Cluster
    ) -> None:
        records, path = ConfigMapRecords(cluster, RELEASE), await self._marked(cluster)
        for restored, is_left in ((reserved(1), True), (COMMITTED, False)):
            data = {CONFIG_MAP_KEY: encode(restored).decode()}
            await cluster.call("PATCH", path, {"data": data})
            await records.adopt()
            found = await cluster.call("GET", path)
            assert is_marked(found) == is_left
        assert found["metadata"]["annotations"] == {"of": "the site"}
        await records.adopt()
        assert await cluster.call("GET", path) == found

    @staticmethod
    async def _marked(cluster: Cluster) -> str:
        path = await create_configmap(cluster, f"{RELEASE}-serving", labels={})
        annotations = {NEVER_NAMED: "true", "of": "the site"}
        await cluster.call("PATCH", path, {"metadata": {"annotations": annotations}})
        return path

    @pytest.mark.parametrize("made_by", ["0.2.0", "the site", "nothing"])
    async def test_only_a_configmap_of_the_earlier_release_gets_new_labels(
        self, cluster: Cluster, made_by: str
    ) -> None:
        records, name = ConfigMapRecords(cluster, RELEASE), f"{RELEASE}-serving"
        path = cluster.path("v1", "configmaps", name)
        labels = {"app.kubernetes.io/instance": RELEASE}
        if made_by == "nothing":
            await records.adopt()
            assert await records.read() == (EMPTY, None)
            return
        if made_by == "0.2.0":
            labels |= {"app.kubernetes.io/name": "fraudops"}
        await create_configmap(cluster, name, labels=labels)
        await records.compare_and_set(reserved(1), (await records.read())[1])
        await records.adopt()
        found = await cluster.call("GET", path)
        kept = kept_metadata(name, RELEASE)["labels"]
        assert found["metadata"]["labels"] == (kept if made_by == "0.2.0" else labels)
        assert (await records.read())[0] == reserved(1)
        await records.adopt()
        assert await cluster.call("GET", path) == found


class LeaseContract(LockContract):
    """Tests of the lock in a Lease."""

    @pytest.fixture
    async def locks(self, cluster: Cluster) -> tuple[Lock, Lock]:
        await create_lease(cluster, LEASE)
        return lock(cluster, "one", 2), lock(cluster, "two", 2)

    async def test_the_lease_names_its_holder_only_inside_of_the_block(
        self, cluster: Cluster, locks: tuple[Lock, Lock]
    ) -> None:
        async with locks[0].hold("job"):
            assert await holder_of(cluster) == "one"
        assert await holder_of(cluster) == ""

    async def test_a_lease_is_renewed_while_it_is_held(
        self, cluster: Cluster, locks: tuple[Lock, Lock]
    ) -> None:
        renewals: set[str] = set()

        async def renewed() -> bool:
            renewals.add((await cluster.call("GET", lease_path(cluster)))["spec"]["renewTime"])
            return len(renewals) > 2

        async with locks[0].hold("job"):
            await soon(renewed)
            assert await locks[0].held()

    @pytest.mark.parametrize("hours", [-1, 1])
    async def test_a_holder_keeps_the_lease_until_it_is_silent_whatever_its_clock_shows(
        self, cluster: Cluster, locks: tuple[Lock, Lock], hours: int
    ) -> None:
        error = timedelta(hours=hours)
        await write_lease(cluster, "living", datetime.now(UTC) + error)
        other = lock(cluster, "other", wait_seconds=30)
        following = other.hold("job")
        taking = asyncio.create_task(following.__aenter__())
        # Longer than the duration, with a renewal at each step.
        for _ in range(12):
            await asyncio.sleep(0.25)
            await write_lease(cluster, "living", datetime.now(UTC) + error)
            assert not taking.done()
        async with asyncio.timeout(20):
            await taking
        assert (await other.held(), await holder_of(cluster)) == (True, "other")
        await following.__aexit__(None, None, None)

    async def test_the_duration_that_the_holder_wrote_counts(
        self, cluster: Cluster, locks: tuple[Lock, Lock]
    ) -> None:
        await write_lease(cluster, "another release", datetime.now(UTC), seconds=3600)
        with pytest.raises(
            LockBusyError, match=r"another promotion has the lock \(another release\)"
        ):
            async with lock(cluster, "two", wait_seconds=3).hold("job"):
                pytest.fail("it was taken over too early")

    async def test_a_holder_that_lost_its_lease_notices_and_leaves_the_lease_alone(
        self, cluster: Cluster, locks: tuple[Lock, Lock]
    ) -> None:
        first = locks[0]
        async with first.hold("job"):
            await write_lease(cluster, "other", datetime.now(UTC))

            async def lost() -> bool:
                return not await first.held()

            await soon(lost)
        assert await holder_of(cluster) == "other"

    async def test_only_one_of_two_takes_a_lease_that_both_saw_free(
        self, cluster: Cluster, locks: tuple[Lock, Lock], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def other_is_faster() -> None:
            await write_lease(cluster, "other", datetime.now(UTC), seconds=3600)

        before_the_next_patch(monkeypatch, cluster, other_is_faster)
        with pytest.raises(LockBusyError, match=r"another promotion has the lock \(other\)"):
            async with locks[0].hold("job"):
                pytest.fail("both have the lock")

    async def test_a_lease_is_released_even_while_its_renewal_is_being_sent(
        self, cluster: Cluster, locks: tuple[Lock, Lock], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        call, sent = cluster.call, list[asyncio.Task[Any]]()

        async def slow(method: str, *arguments: Any, **more: Any) -> Any:
            # A request that was sent arrives at the API even if its task is cancelled.
            async def late() -> Any:
                await asyncio.sleep(0.2)
                return await call(method, *arguments, **more)

            if method != "PATCH":
                return await call(method, *arguments, **more)
            sent.append(asyncio.create_task(late()))
            return await asyncio.shield(sent[-1])

        async def renewing() -> bool:
            return len(sent) > 1 and not sent[-1].done()

        monkeypatch.setattr(cluster, "call", slow)
        async with locks[0].hold("job"):
            await soon(renewing)
        await asyncio.gather(*sent, return_exceptions=True)
        monkeypatch.setattr(cluster, "call", call)
        assert await holder_of(cluster) == ""


class RolloutsContract:
    """Tests of the annotation on the pod template of `<release>-inference`."""

    @pytest.fixture
    def rollouts(self, cluster: Cluster) -> DeploymentRollouts:
        return DeploymentRollouts(cluster, RELEASE)

    @pytest.fixture
    async def annotations(self, cluster: Cluster) -> Any:
        """Return a function that changes the annotations and returns them."""
        path = await create_deployment(cluster, f"{RELEASE}-inference")

        async def read(change: dict[str, str | None] | None = None) -> dict[str, str]:
            if change:
                patch = {"spec": {"template": {"metadata": {"annotations": change}}}}
                await cluster.call("PATCH", path, patch)
            template = (await cluster.call("GET", path))["spec"]["template"]
            return template["metadata"].get("annotations") or {}

        return read

    async def test_the_annotation_names_the_target_and_is_replaced_by_the_next_one(
        self, rollouts: DeploymentRollouts, annotations: Any
    ) -> None:
        await rollouts.annotate(ServingTarget(4, "7", "d" * 64))
        assert await annotations() == {ANNOTATION: f"4/7/{'d' * 64}"}
        await annotations({OTHER: "kept"})
        await rollouts.annotate(ServingTarget(5, "8", "e" * 64))
        assert await annotations() == {ANNOTATION: f"5/8/{'e' * 64}", OTHER: "kept"}

    async def test_the_annotation_is_read_back_and_any_other_text_is_none(
        self, rollouts: DeploymentRollouts, annotations: Any
    ) -> None:
        assert await rollouts.annotated() is None
        await rollouts.annotate(ServingTarget(4, "7", "d" * 64))
        assert await rollouts.annotated() == ServingTarget(4, "7", "d" * 64)
        await annotations({ANNOTATION: "edited by hand"})
        assert await rollouts.annotated() is None

    async def test_undo_removes_its_own_epoch_and_no_other(
        self, rollouts: DeploymentRollouts, annotations: Any
    ) -> None:
        await rollouts.undo(5)
        await annotations({OTHER: "kept"})
        await rollouts.undo(5)
        await rollouts.annotate(ServingTarget(55, "8", "e"))
        # 5 is another epoch although 55 begins with it.
        for epoch in (54, 56, 5):
            await rollouts.undo(epoch)
            assert ANNOTATION in await annotations()
        await rollouts.undo(55)
        await rollouts.undo(55)
        assert await annotations() == {OTHER: "kept"}

    @pytest.mark.parametrize(
        "before", [{}, {OTHER: "kept"}, {ANNOTATION: "5/8/e"}], ids=["none", "another", "its own"]
    )
    async def test_an_annotation_that_changed_since_it_was_read_is_left_alone(
        self,
        cluster: Cluster,
        rollouts: DeploymentRollouts,
        annotations: Any,
        monkeypatch: pytest.MonkeyPatch,
        before: dict[str, str],
    ) -> None:
        await annotations(before)
        changed = before | {ANNOTATION: "6/9/f"}
        before_the_next_patch(monkeypatch, cluster, lambda: annotations(changed))
        with pytest.raises(StaleRecordError):
            await rollouts.annotate(ServingTarget(7, "1", "a"))
        assert await annotations() == changed

    async def test_an_annotation_of_another_writer_survives_the_first_rollout(
        self,
        cluster: Cluster,
        rollouts: DeploymentRollouts,
        annotations: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        before_the_next_patch(monkeypatch, cluster, lambda: annotations({OTHER: "kept"}))
        with pytest.raises(StaleRecordError):
            await rollouts.annotate(ServingTarget(7, "1", "a"))
        await rollouts.annotate(ServingTarget(7, "1", "a"))
        assert await annotations() == {ANNOTATION: "7/1/a", OTHER: "kept"}

    async def test_an_undo_leaves_an_annotation_that_changed_since_it_was_read(
        self,
        cluster: Cluster,
        rollouts: DeploymentRollouts,
        annotations: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        await rollouts.annotate(ServingTarget(5, "8", "e"))
        before_the_next_patch(monkeypatch, cluster, lambda: annotations({ANNOTATION: "6/9/f"}))
        with pytest.raises(StaleRecordError):
            await rollouts.undo(5)
        assert await annotations() == {ANNOTATION: "6/9/f"}

    async def test_a_missing_deployment_raises_its_own_error(
        self, rollouts: DeploymentRollouts
    ) -> None:
        with pytest.raises(NotFoundError):
            await rollouts.annotate(ServingTarget(5, "8", "e"))
