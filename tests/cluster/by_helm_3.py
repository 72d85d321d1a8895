"""A second release, which Helm 3 installs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tests.cluster.neighbours import in_namespace, values_of_neighbour
from tests.cluster.release import Release

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
    """Install a release with three pods and the backup's CronJob."""
    values = values_of_neighbour(release) | {"backup": {"enabled": True, "existingClaim": CLAIM}}
    values["inference"]["replicas"] = 3
    with in_namespace(replace(release, values=values), NAMESPACE) as own:
        own.apply(CLAIM_OF_THE_SITE)
        own.install(program="helm3")
        yield own
