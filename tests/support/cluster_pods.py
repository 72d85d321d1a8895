"""The contract of the port Pods in a cluster, on the fake API server and on a real one."""

from typing import Any

import pytest

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.cluster.pods import ClusterPods
from fraudops.promotion.ports import PodRef, PodUnresponsiveError
from tests.support.cluster_objects import create_deployment, create_pod, remove_pod

RELEASE = "shop"
LABELS = {
    "app.kubernetes.io/component": "inference",
    "app.kubernetes.io/instance": RELEASE,
}
RUNNING = {"running": {"startedAt": "2026-11-29T10:00:00Z"}}
WAITING = {"waiting": {"reason": "CrashLoopBackOff"}}
# The reasons of a container that the kubelet has not started yet.
CREATING = {"waiting": {"reason": "ContainerCreating"}}
WITHOUT_IMAGE = {"waiting": {"reason": "ImagePullBackOff"}}
ENDED = {"terminated": {"exitCode": 137, "finishedAt": "2026-11-29T10:00:00Z"}}
NODE = "no-such-node"


def pod_status(
    ready: str,
    state: dict[str, Any] | None,
    *,
    containers_ready: str | None = None,
    reason: str = "",
    phase: str = "Running",
    container: str = "inference",
    restarts: int = 0,
    last: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a pod's status. The reason is that of its condition Ready.

    `state`, `last` and `restarts` are those of its only container.
    """
    given = {"reason": reason} if reason else {}
    conditions = [
        {"type": "Ready", "status": ready, **given},
        {"type": "ContainersReady", "status": containers_ready or ready},
    ]
    status: dict[str, Any] = {"phase": phase, "conditions": conditions}
    if state is not None:
        seen = {
            "name": container,
            "ready": ready == "True",
            "state": state,
            "lastState": last or {},
        }
        image = {"image": "none", "imageID": ""}
        status["containerStatuses"] = [seen | image | {"restartCount": restarts}]
    return status


READY = pod_status("True", RUNNING)
# What a kubelet writes, and what the node lifecycle controller makes of a ready pod.
UNREADY = pod_status("False", RUNNING, reason="ContainersNotReady")
CUT_OFF = pod_status("False", RUNNING, containers_ready="True")
NOT_READY = "ContainersNotReady"
GATED = pod_status("False", RUNNING, containers_ready="True", reason="ReadinessGatesNotReady")
SILENT_NODE = f"node {NODE} does not answer"
CASES = {
    "ready": (READY, PodRef("a", ready=True)),
    "not ready": (UNREADY, PodRef("a", ready=False)),
    "waits for a readiness gate": (GATED, PodRef("a", ready=False)),
    "not ready, without a reason": (pod_status("False", RUNNING), PodRef("a", ready=False)),
    "on a silent node": (CUT_OFF, PodRef("a", ready=False, lost=SILENT_NODE)),
    "on a lost node of an old release": (
        UNREADY | {"reason": "NodeLost"},
        PodRef("a", ready=False, lost=SILENT_NODE),
    ),
    "just created": (None, PodRef("a", ready=False, running=False)),
    "starts for the first time": (
        pod_status("False", CREATING, reason=NOT_READY, phase="Pending"),
        PodRef("a", ready=False, running=False),
    ),
    "waits for its image": (
        pod_status("False", WITHOUT_IMAGE, reason=NOT_READY, phase="Pending"),
        PodRef("a", ready=False, running=False),
    ),
    "waits to be restarted": (
        pod_status("False", WAITING, reason=NOT_READY),
        PodRef("a", ready=False, running=False, restarting=True),
    ),
    "its container has ended": (
        pod_status("False", ENDED, reason=NOT_READY),
        PodRef("a", ready=False, running=False, restarting=True),
    ),
    "starts again after its node was down": (
        pod_status("False", CREATING, reason=NOT_READY, last=ENDED),
        PodRef("a", ready=False, running=False, restarting=True),
    ),
    "starts again, and its last end is forgotten": (
        pod_status("False", CREATING, reason=NOT_READY, restarts=1),
        PodRef("a", ready=False, running=False, restarting=True),
    ),
    "runs again": (
        pod_status("True", RUNNING, restarts=1, last=ENDED),
        PodRef("a", ready=True),
    ),
    "only its sidecar restarts": (
        pod_status("False", WAITING, reason=NOT_READY, container="proxy", restarts=2, last=ENDED),
        PodRef("a", ready=False, running=False),
    ),
    "only a sidecar runs": (
        pod_status("False", RUNNING, reason="ContainersNotReady", container="proxy"),
        PodRef("a", ready=False, running=False),
    ),
}


class PodsContract:
    """Tests of the pods. The fixture `cluster` is a client of an empty namespace."""

    @pytest.fixture
    def pods(self, cluster: Cluster) -> ClusterPods:
        return ClusterPods(cluster, RELEASE, "token")

    @pytest.mark.parametrize("case", CASES)
    async def test_a_pod_is_what_its_object_says(
        self, cluster: Cluster, pods: ClusterPods, case: str
    ) -> None:
        status, expected = CASES[case]
        await create_pod(cluster, "a", node=NODE, labels=LABELS, status=status)
        assert await pods.list() == [expected]

    async def test_only_living_pods_of_the_release_are_listed(
        self, cluster: Cluster, pods: ClusterPods
    ) -> None:
        other = LABELS | {"app.kubernetes.io/instance": "other"}
        job = LABELS | {"app.kubernetes.io/component": "train"}
        await create_pod(cluster, "a", labels=LABELS, status=READY)
        await create_pod(cluster, "b", labels=other, status=READY)
        await create_pod(cluster, "c", labels=job, status=READY)
        for name, phase in (("d", "Succeeded"), ("e", "Failed")):
            ended = pod_status("False", ENDED, phase=phase)
            await create_pod(cluster, name, labels=LABELS, status=ended)
        assert [pod.name for pod in await pods.list()] == ["a"]

    async def test_a_deleted_pod_is_listed_as_terminating_until_its_object_is_gone(
        self, cluster: Cluster, pods: ClusterPods
    ) -> None:
        await create_pod(cluster, "a", labels=LABELS, grace_seconds=20, status=READY)
        (pod,) = await pods.list()
        await pods.delete(pod)
        await pods.delete(pod)
        assert await pods.list() == [PodRef("a", ready=True, terminating=True)]
        await remove_pod(cluster, "a")
        assert await pods.list() == []
        await pods.delete(pod)

    async def test_no_container_of_a_deleted_pod_is_started_again(
        self, cluster: Cluster, pods: ClusterPods
    ) -> None:
        ended = pod_status("False", ENDED, reason=NOT_READY, restarts=1, last=ENDED)
        await create_pod(cluster, "a", node=NODE, labels=LABELS, status=ended)
        (pod,) = await pods.list()
        assert pod.restarting
        await pods.delete(pod)
        assert await pods.list() == [PodRef("a", ready=False, running=False, terminating=True)]
        await remove_pod(cluster, "a")

    async def test_a_pod_without_an_address_does_not_answer(
        self, cluster: Cluster, pods: ClusterPods
    ) -> None:
        await create_pod(cluster, "a", labels=LABELS)
        (pod,) = await pods.list()
        with pytest.raises(PodUnresponsiveError, match="no address yet"):
            await pods.epoch(pod)

    async def test_the_deployment_says_how_many_pods_there_should_be(
        self, cluster: Cluster, pods: ClusterPods
    ) -> None:
        with pytest.raises(NotFoundError):
            await pods.desired_replicas()
        path = await create_deployment(cluster, f"{RELEASE}-inference")
        assert await pods.desired_replicas() == 0
        await cluster.call("PATCH", path, {"spec": {"replicas": 2}})
        assert await pods.desired_replicas() == 2
