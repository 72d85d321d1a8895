"""The audit outlives the pods: a leaving pod hands its unshipped records to another one."""

from tests.cluster.release import Release, until
from tests.support.figures import Figures


def test_pods_that_leave_while_the_database_is_away_lose_nothing(
    release: Release, figures: Figures
) -> None:
    """Delete and replace each inference pod under load while PostgreSQL has no replicas."""
    old = release.pods()
    with release.traffic() as seen:
        with release.away("statefulset/postgresql"):
            for pod in old:
                release.kubectl("delete", f"pod/{pod}", "--wait=true")
                release.kubectl(
                    "rollout", "status", f"deployment/{release.name}-inference", "--timeout=180s"
                )
        until(
            lambda: (
                not set(old)
                & {pod["metadata"]["name"] for pod in release.objects("pods", "inference")}
            ),
            60,
            "the old pods are gone",
        )
    assert seen.failures == []
    assert seen.answered > 500
    release.assert_all_audited(seen.ids)
    figures.note(
        "PostgreSQL at 0 replicas, every pod deleted and replaced",
        f"{seen.answered} answered, failed: 0, lost: 0, duplicated: 0",
    )
