"""The serving record in the ConfigMap `<release>-serving`.

Reads are quorum reads: a GET without `resourceVersion`. The API server refuses a write whose
`resourceVersion` is not the latest. The chart does not own the ConfigMap, so it survives upgrades
and `helm uninstall`.
"""

from typing import Any

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.cluster.kept import NEVER_NAMED, adoption, is_marked
from fraudops.promotion.ports import StaleRecordError
from fraudops.promotion.serving_record import (
    CONFIG_MAP_KEY,
    EMPTY,
    ServingRecord,
    config_map_name,
    encode,
    of_config_map,
)


class ConfigMapRecords:
    """The port Records. The token is the resourceVersion, or None if there is no ConfigMap."""

    def __init__(self, cluster: Cluster, release: str) -> None:
        self.cluster, self.release, self.name = cluster, release, config_map_name(release)
        self._collection = cluster.path("v1", "configmaps")
        self._path = cluster.path("v1", "configmaps", self.name)

    async def read(self) -> tuple[ServingRecord, Any]:
        try:
            found = await self.cluster.call("GET", self._path)
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
            written = await self.cluster.call("POST", self._collection, made)
        else:
            metadata: dict[str, Any] = {"resourceVersion": token}
            if record.has_named_a_model:
                # With the mark, a record that loses its content would count as new.
                metadata["annotations"] = {NEVER_NAMED: None}
            change = {"metadata": metadata, "data": data}
            try:
                written = await self.cluster.call("PATCH", self._path, change)
            except NotFoundError as error:
                # The token stands for a state that no longer exists, as after any other write.
                raise StaleRecordError(f"the ConfigMap {self.name} has been deleted") from error
        return written["metadata"]["resourceVersion"]

    async def adopt(self) -> None:
        """Put this release's labels on a ConfigMap that release 0.2.0 has made.

        It also removes the mark `never-named` from a record that names a model. A restore from a
        backup leaves it there, and so does a commit of 0.2.0. The setup Job may do neither: the
        right to change the record is the right to promote.

        The caller holds the promotion lock, because the write makes every token stale. Raises
        RecordUnreadableError, and what `call` raises.
        """
        try:
            found = await self.cluster.call("GET", self._path)
        except NotFoundError:
            return
        change = adoption(found, self.release)
        if is_marked(found) and of_config_map(found).has_named_a_model:
            change["annotations"] = {**change.get("annotations", {}), NEVER_NAMED: None}
            change["resourceVersion"] = found["metadata"]["resourceVersion"]
        if change:
            await self.cluster.call("PATCH", self._path, {"metadata": change})
