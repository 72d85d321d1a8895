"""The inference pods of a release: listed from the API, spoken to on their admin port."""

from collections.abc import Sequence
from typing import Any

import httpx

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.promotion.admin_client import PodAdminClient
from fraudops.promotion.ports import PodRef, PodUnresponsiveError
from fraudops.promotion.serving_record import ServingTarget

ANNOTATION = "fraudops.io/serving"


class ClusterPods:
    """A pod's name is unique over time.

    Pods that have ended and wait to be collected serve nobody and are not listed.
    """

    def __init__(
        self, cluster: Cluster, release: str, admin_token: str, admin_port: int = 8001
    ) -> None:
        self.cluster, self.deployment = cluster, f"{release}-inference"
        self.selector = (
            f"app.kubernetes.io/component=inference,app.kubernetes.io/instance={release}"
        )
        self.admin_token, self.admin_port = admin_token, admin_port
        self._addresses: dict[str, str | None] = {}

    async def list(self) -> Sequence[PodRef]:
        found = await self.cluster.call(
            "GET", self.cluster.path("v1", "pods"), query={"labelSelector": self.selector}
        )
        living = [
            item
            for item in found["items"]
            if (item.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
        ]
        self._addresses |= {
            item["metadata"]["name"]: (item.get("status") or {}).get("podIP") for item in living
        }
        return [PodRef(item["metadata"]["name"], is_ready(item)) for item in living]

    async def desired_replicas(self) -> int:
        deployment = await self.cluster.call(
            "GET", self.cluster.path("apps/v1", "deployments", self.deployment)
        )
        return int((deployment.get("spec") or {}).get("replicas") or 0)

    async def epoch(self, pod: PodRef) -> int:
        return await self._client(pod).epoch()

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        await self._client(pod).prepare(target, seconds)

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        return await self._client(pod).activate(epoch, min(seconds, 10.0))

    async def drop(self, pod: PodRef, target: ServingTarget) -> None:
        await self._client(pod).drop(target)

    async def delete(self, pod: PodRef) -> None:
        try:
            await self.cluster.call("DELETE", self.cluster.path("v1", "pods", pod.name))
        except NotFoundError:
            return

    def _client(self, pod: PodRef) -> PodAdminClient:
        address = self._addresses.get(pod.name)
        if not address:
            raise PodUnresponsiveError("the pod has no address yet")
        host = f"[{address}]" if ":" in address else address
        return PodAdminClient(str(httpx.URL(f"http://{host}:{self.admin_port}")), self.admin_token)


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )
