"""The inference pods of a release: listed from the API, called on their admin port."""

import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.promotion.admin_client import PodAdminClient
from fraudops.promotion.ports import PodRef, PodUnresponsiveError
from fraudops.promotion.serving_record import ServingTarget

CONTAINER = "inference"
# One activation must leave time for others before the deadline of all.
ACTIVATE_SECONDS = 10.0
# The kubelet may take a few seconds longer than the grace period to report a pod's end.
OVERDUE_SECONDS = 10.0
ENDED = ("Succeeded", "Failed")


class ClusterPods:
    """The port Pods. A pod's name is unique over time.

    Pods that have ended and wait for their removal serve no request and are not listed.
    """

    def __init__(
        self, cluster: Cluster, release: str, admin_token: str, admin_port: int = 8001
    ) -> None:
        self.cluster, self.release, self.deployment = cluster, release, f"{release}-inference"
        self.admin_token, self.admin_port = admin_token, admin_port
        self._addresses: dict[str, str | None] = {}

    async def list(self) -> Sequence[PodRef]:
        pods, now = await living_pods(self.cluster, self.release)
        self._addresses |= {pod["metadata"]["name"]: pod["status"].get("podIP") for pod in pods}
        return [pod_ref(pod, now) for pod in pods]

    async def desired_replicas(self) -> int:
        deployment = await self.cluster.call(
            "GET", self.cluster.path("apps/v1", "deployments", self.deployment)
        )
        return int(deployment["spec"]["replicas"])

    async def epoch(self, pod: PodRef) -> int:
        return await self._client(pod).epoch()

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        await self._client(pod).prepare(target, seconds)

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        return await self._client(pod).activate(epoch, min(seconds, ACTIVATE_SECONDS))

    async def drop(self, pod: PodRef, target: ServingTarget) -> None:
        await self._client(pod).drop(target)

    async def delete(self, pod: PodRef) -> None:
        with contextlib.suppress(NotFoundError):
            await self.cluster.call("DELETE", self.cluster.path("v1", "pods", pod.name))

    def _client(self, pod: PodRef) -> PodAdminClient:
        address = self._addresses.get(pod.name)
        if not address:
            raise PodUnresponsiveError("the pod has no address yet")
        host = f"[{address}]" if ":" in address else address
        return PodAdminClient(f"http://{host}:{self.admin_port}", self.admin_token)


async def living_pods(
    cluster: Cluster, release: str
) -> tuple[Sequence[dict[str, Any]], datetime | None]:
    """Return the release's inference pods that have not ended, and the API server's time.

    Each pod is an object of the API, with a spec and a status. The time is None if the answer has
    none. Raises as `Cluster.call` does.
    """
    selector = f"app.kubernetes.io/component=inference,app.kubernetes.io/instance={release}"
    pods, now = await cluster.select(cluster.path("v1", "pods"), selector)
    return [pod for pod in pods if pod["status"].get("phase") not in ENDED], now


def pod_ref(pod: dict[str, Any], now: datetime | None) -> PodRef:
    """Return what the pod's object says about it. `now` is the API server's time."""
    return PodRef(
        name=str(pod["metadata"]["name"]),
        ready=is_ready(pod),
        running=_is_running(pod),
        terminating="deletionTimestamp" in pod["metadata"],
        lost=_lost(pod, now),
        restarting=_is_restarting(pod),
    )


def is_ready(pod: dict[str, Any]) -> bool:
    return bool(_conditions(pod).get("Ready", {}).get("status") == "True")


def _conditions(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = pod["status"].get("conditions") or []
    return {condition["type"]: condition for condition in found}


def _is_running(pod: dict[str, Any]) -> bool:
    return "running" in (_container(pod).get("state") or {})


def _is_restarting(pod: dict[str, Any]) -> bool:
    """Tell whether the container has run before, does not run now, and is started again.

    The pod's volumes survive the restart, and with them the model that it served. The kubelet of a
    deleted pod starts no container again. A new container waits with restartCount 0 and without a
    last state, also when its image cannot be pulled.
    """
    container = _container(pod)
    state, last = container.get("state") or {}, container.get("lastState") or {}
    waits = (state.get("waiting") or {}).get("reason")
    ran = (
        container.get("restartCount", 0) > 0
        or "terminated" in state
        or "terminated" in last
        or waits == "CrashLoopBackOff"
    )
    return ran and "running" not in state and "deletionTimestamp" not in pod["metadata"]


def _container(pod: dict[str, Any]) -> dict[str, Any]:
    """Return the status of the inference container. Sidecars serve no model."""
    statuses = pod["status"].get("containerStatuses") or []
    return next((status for status in statuses if status["name"] == CONTAINER), {})


def _lost(pod: dict[str, Any], now: datetime | None) -> str | None:
    """Return why no new connection reaches the pod, although its object still exists.

    Only the pod's own object is read. Nodes belong to the cluster, so reading them would need a
    ClusterRole. It would show nothing earlier: the node lifecycle controller sets the node's Ready
    condition to Unknown and its pods' Ready to False in the same pass, about 50 s after the last
    sign of life (seen on Kubernetes 1.34). About a minute after a node's object is gone, the pod
    garbage collector sets its pods to Failed and removes them by force, and `living_pods` skips
    them.
    """
    if pod["status"].get("reason") == "NodeLost" or _is_cut_off(_conditions(pod)):
        node = pod["spec"].get("nodeName") or "of the pod"
        return f"node {node} does not answer"
    return _overdue(pod["metadata"].get("deletionTimestamp"), now)


def _is_cut_off(conditions: dict[str, dict[str, Any]]) -> bool:
    """Tell whether the control plane, not the kubelet, has set the pod to not ready.

    A kubelet always writes a reason (pkg/kubelet/status/generate.go), and ContainersReady is then
    False too, except for readiness gates. The node lifecycle controller changes only the status of
    Ready (MarkPodsNotReady). A pod that was not ready before keeps the kubelet's last words, so
    this cannot tell that its node is dead. It received no new connection anyway.
    """
    ready, containers = conditions.get("Ready", {}), conditions.get("ContainersReady", {})
    return (
        ready.get("status") == "False"
        and not ready.get("reason")
        and containers.get("status") == "True"
    )


def _overdue(deadline: str | None, now: datetime | None) -> str | None:
    """Return how long the pod has outlived its deletion, if that is too long.

    `deadline` is the deletionTimestamp. It already includes the grace period: the API server adds
    deletionGracePeriodSeconds to the time of the request (apiserver, pkg/registry/rest/delete.go).
    Both times come from the API server's clock, so this machine's clock does not count.
    """
    if deadline is None or now is None:
        return None
    late = (now - datetime.fromisoformat(deadline)).total_seconds()
    return f"it should have ended {late:.0f} s ago" if late > OVERDUE_SECONDS else None
