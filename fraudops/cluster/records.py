"""The serving record in the ConfigMap `<release>-serving`.

Reads are quorum reads. Writes are compared with the resourceVersion.
"""

from typing import Any

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.promotion.serving_record import (
    CONFIG_MAP_KEY,
    EMPTY,
    ServingRecord,
    config_map_name,
    encode,
    of_config_map,
)


class ConfigMapRecords:
    """The token is the resourceVersion, or None while there is no ConfigMap.

    It belongs to no chart: it outlives upgrades and the release.
    """

    def __init__(self, cluster: Cluster, release: str) -> None:
        self.cluster, self.name = cluster, config_map_name(release)

    async def read(self) -> tuple[ServingRecord, Any]:
        try:
            found = await self.cluster.call("GET", self.cluster.path("v1", "configmaps", self.name))
        except NotFoundError:
            return EMPTY, None
        return of_config_map(found), found["metadata"]["resourceVersion"]

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        data = {CONFIG_MAP_KEY: encode(record).decode()}
        if token is None:
            made = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": self.name},
                "data": data,
            }
            written = await self.cluster.call("POST", self.cluster.path("v1", "configmaps"), made)
        else:
            change = {"metadata": {"resourceVersion": token}, "data": data}
            written = await self.cluster.call(
                "PATCH", self.cluster.path("v1", "configmaps", self.name), change
            )
        return written["metadata"]["resourceVersion"]
