"""A second release, which Helm 3 installs beside a node that it may use later."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.cluster.neighbours import in_namespace, values_of_neighbour
from tests.cluster.release import Object, Release

NAMESPACE = "second"
CLAIM = "fraudops-backups"
CLAIM_OF_THE_SITE = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": CLAIM},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


@contextmanager
def second_release(release: Release) -> Iterator[Release]:
    """Install a release with three pods, none on the spare node, and with the backup's CronJob."""
    node = spare_node(release)
    nodes = [item["metadata"]["name"] for item in release.get("nodes")["items"]]
    assert node in nodes, "no spare node: run `make kind-down`, then `make cluster-test`"
    with in_namespace(replace(release, values=values_of(release)), NAMESPACE) as own:
        own.apply(CLAIM_OF_THE_SITE)
        with cordoned(own, node):
            own.install(program="helm3")
        yield own


def values_of(release: Release) -> Object:
    values = values_of_neighbour(release)
    values["inference"] |= {
        "replicas": 3,
        "tolerations": [{"key": "fraudops.io/spare", "operator": "Exists"}],
    }
    # One try shows the ending. Later tries only repeat it.
    values["jobs"] |= {"backoffLimit": 0}
    return values | {"backup": {"enabled": True, "existingClaim": CLAIM}}


def spare_node(release: Release) -> str:
    return f"{release.context.removeprefix('kind-')}-worker"


@contextmanager
def cordoned(release: Release, node: str) -> Iterator[None]:
    release.kubectl("cordon", node)
    try:
        yield
    finally:
        release.kubectl("uncordon", node)
