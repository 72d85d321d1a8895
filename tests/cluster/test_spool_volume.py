"""With a spool volume that outlives them all pods may go at once, whatever PostgreSQL does."""

import json
from collections.abc import Iterator

import pytest

from tests.cluster.release import Release, until
from tests.support.figures import Figures

# kind's volumes are of one node, and so are its pods.
VOLUME = (
    "inference.spool.persistence.enabled=true",
    "inference.spool.persistence.accessModes={ReadWriteOnce}",
)
PLACE = "/var/spool/fraudops"


@pytest.fixture
def persistent(release: Release) -> Iterator[Release]:
    """The release with the volume, and afterwards as it was."""
    release.install(*VOLUME)
    release.agreed()
    try:
        yield release
    finally:
        release.install()
        release.agreed()
        release.kubectl("delete", "pvc", f"{release.name}-inference-spool", "--wait=false")


def test_all_pods_deleted_at_once_while_the_database_is_away_lose_nothing(
    persistent: Release, figures: Figures
) -> None:
    """One by force, as if its node had died, the others with their grace period, under load; then
    PostgreSQL comes back.
    """
    release = persistent
    old = release.pods()
    with release.traffic() as seen:
        with release.away("statefulset/postgresql"):
            until(
                lambda: all(told(release, pod)["backlog_rows"] > 100 for pod in old),
                60,
                "every pod holds answers that are nowhere else",
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
                lambda: all(told(release, pod)["abandoned_bytes"] > 0 for pod in release.pods()),
                60,
                "they say what the old ones have left",
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


def told(release: Release, pod: str) -> dict[str, int]:
    """What the pod's shipper says of itself."""
    found: dict[str, int] = json.loads(
        release.kubectl(
            "exec", pod, "-c", "shipper", "--", "cat", "/var/lib/fraudops/run/shipper.json"
        )
    )
    return found


def folders(release: Release) -> list[str]:
    return release.kubectl(
        "exec", release.pods()[0], "-c", "shipper", "--", "ls", f"{PLACE}/{release.name}"
    ).split()
