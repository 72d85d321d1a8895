"""Objects of a release that a test creates in its own namespace, real or fake."""

from typing import Any

from fraudops.cluster.api import Cluster, NotFoundError


async def create_namespace(cluster: Cluster) -> None:
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": cluster.namespace}}
    await cluster.call("POST", "/api/v1/namespaces", made)


async def create_configmap(
    cluster: Cluster,
    name: str,
    data: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
) -> str:
    """Create a ConfigMap and return its path."""
    metadata = {"name": name, "labels": labels or {}}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data or {}}
    await cluster.call("POST", cluster.path("v1", "configmaps"), made)
    return cluster.path("v1", "configmaps", name)


async def create_lease(cluster: Cluster, name: str) -> str:
    """Create a Lease without a spec, as the chart does, and return its path."""
    group = "coordination.k8s.io/v1"
    made = {"apiVersion": group, "kind": "Lease", "metadata": {"name": name}}
    await cluster.call("POST", cluster.path(group, "leases"), made)
    return cluster.path(group, "leases", name)


async def create_deployment(
    cluster: Cluster, name: str, annotations: dict[str, str] | None = None, replicas: int = 0
) -> str:
    """Create a Deployment whose image does not exist, and return its path."""
    template = {
        "metadata": {"labels": {"app": name}, "annotations": annotations or {}},
        "spec": {"containers": [{"name": "inference", "image": "none"}]},
    }
    selector = {"matchLabels": {"app": name}}
    made = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": selector, "template": template},
    }
    await cluster.call("POST", cluster.path("apps/v1", "deployments"), made)
    return cluster.path("apps/v1", "deployments", name)


async def create_job(
    cluster: Cluster, name: str, annotations: dict[str, str] | None = None
) -> dict[str, Any]:
    """Create a Job whose pod finds no node, and return it."""
    container = {
        "name": "promote",
        "image": "none",
        "command": ["python", "-m", "jobs.promote"],
        "args": ["--version", "2"],
    }
    metadata = {"name": name, "annotations": annotations or {}}
    nowhere = {"restartPolicy": "Never", "nodeSelector": {"example.com/none": "true"}}
    spec = {"template": {"spec": nowhere | {"containers": [container]}}}
    made = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
    return await cluster.call("POST", cluster.path("batch/v1", "jobs"), made)


async def create_pod(
    cluster: Cluster,
    name: str,
    *,
    node: str | None = "no-such-node",
    labels: dict[str, str] | None = None,
    grace_seconds: int = 30,
    status: dict[str, Any] | None = None,
) -> str:
    """Create a pod that no kubelet runs, and return its path.

    No kubelet owns a node that does not exist, so the test decides what the status says, and when
    the pod ends.
    """
    spec: dict[str, Any] = {
        "containers": [{"name": "inference", "image": "none"}],
        "terminationGracePeriodSeconds": grace_seconds,
    }
    if node is not None:
        spec["nodeName"] = node
    else:
        # A gate keeps the scheduler of a real cluster from giving the pod a node.
        spec["schedulingGates"] = [{"name": "example.com/never"}]
    metadata = {"name": name, "labels": labels or {}}
    made = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    await cluster.call("POST", cluster.path("v1", "pods"), made)
    path = cluster.path("v1", "pods", name)
    if status is not None:
        await cluster.call("PATCH", f"{path}/status", {"status": status})
    return path


async def remove_pod(cluster: Cluster, name: str) -> None:
    """Remove a terminating pod, as its kubelet does when the containers have stopped."""
    options = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
    try:
        await cluster.call("DELETE", cluster.path("v1", "pods", name), options)
    except NotFoundError:
        return
