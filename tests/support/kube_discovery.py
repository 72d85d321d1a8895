"""What the fake API server tells clients about its resources, as Helm asks before a `lookup`."""

from tests.support.kube_objects import CLUSTER_SCOPED, RESOURCES, Object


def discovery(path: str) -> Object | None:
    """Return the answer for a path that names no object, or None."""
    groups = {resource.api_version: resource.group for resource in RESOURCES.values()}
    known = {"/version": {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}}
    known["/api"] = {"kind": "APIVersions", "versions": ["v1"]}
    known["/apis"] = {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group(name, version) for version, name in groups.items() if name],
    }
    for version, name in groups.items():
        root = f"/apis/{version}" if name else f"/api/{version}"
        known[root] = {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": [
                {
                    "name": resource.plural,
                    "singularName": "",
                    "namespaced": resource.plural not in CLUSTER_SCOPED,
                    "kind": resource.kind,
                    "verbs": ["get", "list", "create", "patch", "delete"],
                }
                for resource in RESOURCES.values()
                if resource.api_version == version
            ],
        }
    return known.get(path)


def _group(name: str, version: str) -> Object:
    only = {"groupVersion": version, "version": version.rpartition("/")[2]}
    return {"name": name, "versions": [only], "preferredVersion": only}
