"""Rollouts of a model by the Deployment, through one annotation on its pod template.

The chart never renders the annotation's key, so an upgrade of the release keeps the annotation.
"""

from typing import Any

from fraudops.cluster.api import Cluster
from fraudops.promotion.serving_record import ServingTarget

ANNOTATION = "fraudops.io/serving"
ANNOTATIONS_POINTER = "/spec/template/metadata/annotations"
POINTER = f"{ANNOTATIONS_POINTER}/fraudops.io~1serving"


class DeploymentRollouts:
    """The port Rollouts.

    Each change is a JSON patch that first tests what was read. The API server applies a patch as a
    whole or not at all. It takes a `test` for null as "this is absent".
    """

    def __init__(self, cluster: Cluster, release: str) -> None:
        self.cluster = cluster
        self.path = cluster.path("apps/v1", "deployments", f"{release}-inference")

    async def annotate(self, target: ServingTarget) -> None:
        annotations = await self._annotations()
        patch: list[dict[str, Any]]
        if annotations is None:
            # `add` replaces what exists. Without the test it would remove another writer's
            # annotations, such as the one of `kubectl rollout restart`.
            patch = [
                {"op": "test", "path": ANNOTATIONS_POINTER, "value": None},
                {"op": "add", "path": ANNOTATIONS_POINTER, "value": {}},
            ]
        else:
            patch = [{"op": "test", "path": POINTER, "value": annotations.get(ANNOTATION)}]
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

    async def annotated(self) -> ServingTarget | None:
        return ServingTarget.parse((await self._annotations() or {}).get(ANNOTATION, ""))

    async def _annotations(self) -> dict[str, str] | None:
        deployment = await self.cluster.call("GET", self.path)
        found: dict[str, str] | None = deployment["spec"]["template"]["metadata"].get("annotations")
        return found
