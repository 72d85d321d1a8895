"""A spool volume that outlives the pods: all of them may end together without PostgreSQL."""

import json
from collections.abc import Iterator

import pytest

from tests.cluster.release import Release, until
from tests.support.figures import Figures

# A volume of kind belongs to one node; all pods run on that node, so ReadWriteOnce is enough.
VOLUME = (
    "inference.spool.persistence.enabled=true",
    "inference.spool.persistence.accessModes={ReadWriteOnce}",
)
MOUNT_PATH = "/var/spool/fraudops"


@pytest.fixture
def persistent(release: Release) -> Iterator[Release]:
    """Yield the release with the volume; restore it after the test."""
    release.install(*VOLUME)
    release.agreed()
    try:
        yield release
    finally:
        release.install()
        release.agreed()
        release.kubectl("delete", "pvc", f"{release.name}-inference-spool", "--wait=false")


def test_all_pods_deleted_together_while_the_database_is_away_lose_nothing(
    persistent: Release, figures: Figures
) -> None:
    """One pod is killed as if its node had died, the others get their grace period."""
    release = persistent
    old = release.pods()
    with release.traffic() as seen:
        with release.away("statefulset/postgresql"):
            until(
                lambda: all(shipper_status(release, pod)["backlog_rows"] > 100 for pod in old),
                60,
                "every pod holds records that are not in PostgreSQL",
            )
            release.kubectl(
                "delete", f"pod/{old[0]}", "--force", "--grace-period=0", "--wait=false"
            )
            release.kubectl("delete", *(f"pod/{pod}" for pod in old[1:]), "--wait=false")
            until(
                lambda: (
                    not set(old)
                    & {pod["metadata"]["name"] for pod in release.objects("pods", "inference")}
                ),
                90,
                "the old pods are gone",
            )
            until(lambda: len(release.pods()) == len(old), 90, "the new pods run")
            until(
                lambda: all(
                    shipper_status(release, pod)["abandoned_bytes"] > 0 for pod in release.pods()
                ),
                60,
                "the new pods report the folders of the old ones",
            )
        release.agreed()
    assert seen.answered > 500
    release.assert_all_audited(seen.ids)
    until(
        lambda: set(folders(release)) == set(release.pods()),
        90,
        "only the folders of living pods are left",
    )
    figures.note(
        "PostgreSQL at 0 replicas, all pods deleted at once, the spool on a persistent volume",
        f"{seen.answered} answered, lost: 0, duplicated: 0",
    )


def shipper_status(release: Release, pod: str) -> dict[str, int]:
    """Return the status that the pod's shipper has written."""
    path = "/var/lib/fraudops/run/shipper.json"
    return dict(json.loads(release.kubectl("exec", pod, "-c", "shipper", "--", "cat", path)))


def folders(release: Release) -> list[str]:
    return release.kubectl(
        "exec", release.pods()[0], "-c", "shipper", "--", "ls", f"{MOUNT_PATH}/{release.name}"
    ).split()
