"""Rollout of a model by the Deployment, through one annotation on its pod template.

The chart never renders the annotation's key.
"""

from typing import Any

from fraudops.cluster.api import Cluster
from fraudops.promotion.serving_record import ServingTarget

ANNOTATION = "fraudops.io/serving"
POINTER = "/spec/template/metadata/annotations/fraudops.io~1serving"


class DeploymentRollouts:
    """Every change is a JSON patch that first tests what it replaces."""

    def __init__(self, cluster: Cluster, release: str) -> None:
        self.cluster, self.path = (
            cluster,
            cluster.path("apps/v1", "deployments", f"{release}-inference"),
        )

    async def _annotations(self) -> dict[str, str] | None:
        deployment = await self.cluster.call("GET", self.path)
        found: dict[str, Any] | None = deployment["spec"]["template"]["metadata"].get("annotations")
        return found

    async def annotate(self, target: ServingTarget) -> None:
        annotations = await self._annotations()
        patch: list[dict[str, Any]] = []
        if annotations is None:
            patch.append({"op": "add", "path": "/spec/template/metadata/annotations", "value": {}})
        elif ANNOTATION in annotations:
            patch.append({"op": "test", "path": POINTER, "value": annotations[ANNOTATION]})
        patch.append({"op": "add", "path": POINTER, "value": str(target)})
        await self.cluster.call("PATCH", self.path, patch, patch="json")

    async def undo(self, epoch: int) -> None:
        found = (await self._annotations() or {}).get(ANNOTATION, "")
        if found.split("/")[0] == str(epoch):
            patch = [
                {"op": "test", "path": POINTER, "value": found},
                {"op": "remove", "path": POINTER},
            ]
            await self.cluster.call("PATCH", self.path, patch, patch="json")
