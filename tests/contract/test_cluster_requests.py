"""What exactly the promotion's ports send to the Kubernetes API."""

import asyncio
import re
from collections.abc import Callable
from typing import Any

import pytest

from fraudops.cluster import pods as pods_module
from fraudops.cluster.api import Cluster
from fraudops.cluster.lease import LeaseLock, LeaseTimes
from fraudops.cluster.pods import ClusterPods
from fraudops.cluster.records import ConfigMapRecords
from fraudops.cluster.rollout import DeploymentRollouts
from fraudops.promotion.ports import PodRef, PodUnresponsiveError
from fraudops.promotion.serving_record import EMPTY, ServingTarget
from tests.support.cluster_objects import create_deployment, create_lease, create_pod, remove_pod
from tests.support.cluster_pods import LABELS, READY, pod_status
from tests.support.cluster_ports import RELEASE
from tests.support.promotion_ports import reserved

CONFIG_MAPS = "/api/v1/namespaces/test/configmaps"
DEPLOYMENT = f"/apis/apps/v1/namespaces/test/deployments/{RELEASE}-inference"
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/test/leases/{RELEASE}-promotion"
MERGE, JSON = "application/merge-patch+json", "application/json-patch+json"
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
Sent = list[tuple[str, str, Any, str]]


@pytest.fixture
def sent(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Every request after the fixture: method, path, body, and the kind of a patch."""
    requests, request = Sent(), cluster._request

    async def recorded(
        method: str, path: str, query: Any = None, body: Any = None, kind: str = "", **more: Any
    ) -> Any:
        shown = path + "".join(f"?{key}={value}" for key, value in (query or {}).items())
        requests.append((method, shown, body, kind if method == "PATCH" else ""))
        return await request(method, path, query, body, kind, **more)

    monkeypatch.setattr(cluster, "_request", recorded)
    return requests


async def test_the_first_record_creates_a_configmap_and_the_next_one_names_its_version(
    cluster: Cluster, sent: Sent
) -> None:
    records = ConfigMapRecords(cluster, RELEASE)
    assert await records.read() == (EMPTY, None)
    token = await records.compare_and_set(reserved(1), None)
    await records.compare_and_set(reserved(2), token)
    (read, created, changed) = sent
    assert read == ("GET", f"{CONFIG_MAPS}/{RELEASE}-serving", None, "")
    method, path, body, _ = created
    assert (method, path) == ("POST", CONFIG_MAPS)
    assert body.pop("data").keys() == {"serving.json"}
    assert body == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{RELEASE}-serving"},
    }
    method, path, body, kind = changed
    assert (method, path, kind) == ("PATCH", f"{CONFIG_MAPS}/{RELEASE}-serving", MERGE)
    assert body["metadata"] == {"resourceVersion": token}
    assert body["data"].keys() == {"serving.json"}


@pytest.mark.parametrize("before", [{}, {"other": "kept"}])
async def test_an_annotation_is_written_by_a_patch_that_tests_what_was_read(
    cluster: Cluster, sent: Sent, before: dict[str, str]
) -> None:
    await create_deployment(cluster, f"{RELEASE}-inference", before)
    sent.clear()
    target = ServingTarget(5, "8", "d" * 64)
    rollouts = DeploymentRollouts(cluster, RELEASE)
    await rollouts.annotate(target)
    await rollouts.undo(4)
    await rollouts.undo(5)
    every = "/spec/template/metadata/annotations"
    own = f"{every}/fraudops.io~1serving"
    create = [
        {"op": "test", "path": every, "value": None},
        {"op": "add", "path": every, "value": {}},
    ]
    add = {"op": "add", "path": own, "value": str(target)}
    asked = [{"op": "test", "path": own, "value": None}] if before else create
    remove = [{"op": "test", "path": own, "value": str(target)}, {"op": "remove", "path": own}]
    read = ("GET", DEPLOYMENT, None, "")
    assert sent == [
        read,
        ("PATCH", DEPLOYMENT, [*asked, add], JSON),
        read,
        read,
        ("PATCH", DEPLOYMENT, remove, JSON),
    ]


async def test_a_lease_is_taken_renewed_and_released_by_compare_and_set(
    cluster: Cluster, sent: Sent
) -> None:
    await create_lease(cluster, f"{RELEASE}-promotion")
    sent.clear()
    said: list[str] = []
    times = LeaseTimes(duration=7, renew=0.2, pause=0.05)
    lock = LeaseLock(cluster, RELEASE, "one", said.append, 2.0, times)
    async with lock.hold("job"), asyncio.timeout(10):
        while len(sent) < 4:  # noqa: ASYNC110 (the requests of the renewal are not an event)
            await asyncio.sleep(0.02)
    assert said == ["lock acquired"]
    writes = [request for request in sent if request[0] == "PATCH"]
    assert {(path, kind) for _, path, _, kind in sent if kind} == {(LEASE, MERGE)}
    assert {request[:3] for request in sent if request[0] == "GET"} == {("GET", LEASE, None)}
    versions = [body["metadata"].pop("resourceVersion") for _, _, body, _ in writes]
    assert len(set(versions)) == len(versions)
    specs = [body["spec"] for _, _, body, _ in writes]
    assert [spec["holderIdentity"] for spec in specs] == ["one"] * (len(specs) - 1) + [""]
    assert {spec["leaseDurationSeconds"] for spec in specs} == {7}
    assert all(MICRO_TIME.fullmatch(spec["renewTime"]) for spec in specs)
    # The time of the change of holder stays as it is during renewals.
    assert ["acquireTime" in spec for spec in specs] == [True] + [False] * (len(specs) - 2) + [True]
    assert specs[0]["acquireTime"] == specs[0]["renewTime"]


async def test_a_stranger_that_takes_the_lease_stays_unknown_until_it_has_written(
    cluster: Cluster, sent: Sent
) -> None:
    path = await create_lease(cluster, f"{RELEASE}-promotion")
    lock = LeaseLock(cluster, RELEASE, "one", lambda _: None, 2.0)
    assert not await lock.held()
    # A holder of this name has died: the same promoter takes its own Lease without a wait.
    await cluster.call("PATCH", path, {"spec": {"holderIdentity": "one"}})
    sent.clear()
    async with asyncio.timeout(10), lock.hold("job"):
        assert [method for method, *_ in sent] == ["GET", "PATCH"]
        assert "acquireTime" not in sent[1][2]["spec"]


async def test_pods_are_selected_counted_and_deleted(cluster: Cluster, sent: Sent) -> None:
    await create_deployment(cluster, f"{RELEASE}-inference", replicas=2)
    await create_pod(cluster, "a", labels=LABELS, status=READY)
    sent.clear()
    pods = ClusterPods(cluster, RELEASE, "token")
    (pod,) = await pods.list()
    assert await pods.desired_replicas() == 2
    await pods.delete(pod)
    selector = f"app.kubernetes.io/component=inference,app.kubernetes.io/instance={RELEASE}"
    collection = "/api/v1/namespaces/test/pods"
    assert sent == [
        ("GET", f"{collection}?labelSelector={selector}", None, ""),
        ("GET", DEPLOYMENT, None, ""),
        ("DELETE", f"{collection}/a", None, ""),
    ]


async def silent_address(stack: list[asyncio.Server]) -> int:
    """Return the port of a pod that takes connections and never answers."""

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            pass
        writer.close()

    stack.append(await asyncio.start_server(hang, "127.0.0.1", 0))
    return int(stack[-1].sockets[0].getsockname()[1])


async def test_one_activation_leaves_time_for_the_others(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pods_module, "ACTIVATE_SECONDS", 0.3)
    listeners: list[asyncio.Server] = []
    port = await silent_address(listeners)
    await create_pod(cluster, "a", labels=LABELS, status=READY | {"podIP": "127.0.0.1"})
    pods = ClusterPods(cluster, RELEASE, "token", admin_port=port)
    (pod,) = await pods.list()
    async with asyncio.timeout(10):
        with pytest.raises(PodUnresponsiveError):
            await pods.activate(pod, 5, 3600.0)
        monkeypatch.setattr(pods_module, "ACTIVATE_SECONDS", 3600.0)
        with pytest.raises(PodUnresponsiveError):
            await pods.activate(pod, 5, 0.3)
    listeners[0].close()


async def test_a_pod_that_is_no_longer_listed_keeps_its_address(cluster: Cluster) -> None:
    await create_pod(cluster, "a", labels=LABELS, status=READY | {"podIP": "127.0.0.1"})
    await create_pod(cluster, "b", labels=LABELS, status=READY)
    pods = ClusterPods(cluster, RELEASE, "token", admin_port=9)
    first, _ = await pods.list()
    await pods.delete(first)
    await remove_pod(cluster, "a")
    assert [pod.name for pod in await pods.list()] == ["b"]
    with pytest.raises(PodUnresponsiveError, match=r"http://127\.0\.0\.1:9/ready"):
        await pods.epoch(first)


LOST: dict[str, Callable[[], tuple[dict[str, Any], str | None, str | None]]] = {
    "no node": lambda: (READY | {"reason": "NodeLost"}, None, "node of the pod does not answer"),
    "another reason": lambda: (READY | {"reason": "Evicted"}, "n", None),
    "ready again": lambda: (pod_status("True", None), "n", None),
    "unknown": lambda: (pod_status("Unknown", None, containers_ready="True"), "n", None),
}


@pytest.mark.parametrize("case", LOST)
async def test_a_pod_is_lost_only_by_what_its_own_object_says(cluster: Cluster, case: str) -> None:
    status, node, lost = LOST[case]()
    await create_pod(cluster, "a", labels=LABELS, node=node, status=status)
    (pod,) = await ClusterPods(cluster, RELEASE, "token").list()
    assert pod.lost == lost


async def test_a_pod_that_the_api_has_forgotten_is_deleted_already(cluster: Cluster) -> None:
    await ClusterPods(cluster, RELEASE, "token").delete(PodRef("gone", ready=False))
