"""Promotion under load in a real cluster.

No request fails. The old version answers no request that was sent after a promotion returned. In
the end record, alias and workers agree.
"""

import json
import subprocess
import sys
import threading
import time

import pytest

from tests.cluster.observations import Promoted, Seen
from tests.cluster.release import Release, Repetitions, run, until
from tests.support.figures import Figures

PODS = 3
# The moments at which a promoter is killed: a line of its log and the seconds after it.
POINTS = [
    ("committed", 0.0),
    ("reserved epoch", 0.0),
    ("prepared on", 0.0),
    ("lock acquired", 0.0),
    ("reserved epoch", 0.4),
    ("committed", 0.15),
    ("prepared on", 0.05),
    ("reserved epoch", 0.8),
    ("committed", 0.3),
    ("lock acquired", 0.1),
]


@pytest.fixture(scope="module")
def release(second: Release) -> Release:
    """Return the second release, so that the tests of the installed one run in parallel."""
    return second


def other(versions: tuple[str, str], release: Release) -> str:
    """Return the version that does not serve."""
    return next(version for version in versions if version != release.serving()[0])


def assert_promised(seen: Seen, promotions: list[Promoted], versions: list[str]) -> None:
    """Only its version answers requests between a promotion's return and the next reservation."""
    for promoted, version, following in zip(
        promotions, versions, [*promotions[1:], None], strict=True
    ):
        until_next = following.moment("reserved epoch") if following else float("inf")
        assert seen.versions_after(promoted.returned, until_next) <= {version}, promoted.output


def assert_served(seen: Seen, release: Release, at_least: int) -> None:
    assert seen.failures == []
    assert seen.answered > at_least
    release.assert_all_audited(seen.ids)


def test_a_bundle_that_one_pod_cannot_take_changes_nothing(
    release: Release, versions: tuple[str, str], figures: Figures
) -> None:
    """One pod cannot write to its cache, as with a full disk or a wrong mount.

    This test is the first of the file: after a promotion every pod has the version in its cache.
    """
    before, target = release.record(), other(versions, release)
    pod = release.pods()[1]
    cache = "/var/lib/fraudops/bundles"
    release.kubectl("exec", pod, "-c", "inference", "--", "chmod", "500", cache)
    try:
        refused = release.promote(target)
    finally:
        release.kubectl("exec", pod, "-c", "inference", "--", "chmod", "700", cache)
    assert refused.exit_code == 65, refused.output
    assert pod in refused.output
    after = release.record()
    assert after["current"] == before["current"]
    assert after.get("reserved") is None
    assert release.agreed()[0] == before["current"]["version"]
    events = [
        event["message"]
        for event in release.get("events")["items"]
        if event["reason"].lower().startswith("promotion")
    ]
    assert any(pod in message for message in events), events
    latest = f"WHERE to_version = '{target}' ORDER BY started_at DESC LIMIT 1"
    assert release.sql(f"SELECT outcome FROM promotions {latest}") == "refused"
    figures.note(
        "a pod that cannot take the bundle",
        f"exit code {refused.exit_code}: {refused.lines[-1][1]}",
    )


def test_broadcasts_and_rollouts_under_load(
    release: Release, versions: tuple[str, str], counts: Repetitions, figures: Figures
) -> None:
    promotions: list[Promoted] = []
    targets: list[str] = []
    strategies = ["broadcast"] * counts.broadcasts + ["rollout"] * counts.rollouts
    started = time.time()
    with release.traffic() as seen:
        for strategy in strategies:
            targets.append(other(versions, release))
            promotions.append(release.promote(targets[-1], "--strategy", strategy))
            assert promotions[-1].exit_code == 0, promotions[-1].output
            assert release.serving()[0] == targets[-1]
    seconds = time.time() - started
    # Clients send more. Other tests use the same processors.
    assert_served(seen, release, int(10 * seconds))
    assert_promised(seen, promotions, targets)
    assert release.agreed()[0] == targets[-1]
    durations = [promoted.seconds for promoted in promotions]
    figures.seconds("broadcast to 3 pods, lock to convergence", durations[: counts.broadcasts])
    figures.seconds("rollout of 3 pods, lock to convergence", durations[counts.broadcasts :])
    figures.note(
        "requests a second on kept-alive connections during it",
        f"{seen.answered / seconds:.0f}, {seen.answered} in all, failed: {len(seen.failures)}",
    )


def test_pods_that_are_deleted_during_broadcasts(
    release: Release, versions: tuple[str, str], counts: Repetitions, figures: Figures
) -> None:
    stop = threading.Event()
    deleted: list[str] = []

    def delete() -> None:
        while not stop.wait(10 if deleted else 2):
            deleted.append(release.pods()[0])
            release.kubectl("delete", f"pod/{deleted[-1]}", "--wait=false")

    promotions: list[Promoted] = []
    targets: list[str] = []
    with release.traffic() as seen:
        deleting = threading.Thread(target=delete)
        deleting.start()
        try:
            for _ in range(counts.deletions):
                targets.append(other(versions, release))
                promotions.append(release.promote(targets[-1]))
                assert promotions[-1].exit_code == 0, promotions[-1].output
        finally:
            stop.set()
            deleting.join()
        assert release.agreed()[0] == targets[-1]
    assert deleted
    assert_served(seen, release, 200)
    assert_promised(seen, promotions, targets)
    figures.note(
        "broadcasts while a pod is deleted every 10 s",
        f"{len(promotions)}, {len(deleted)} pods deleted, failed requests: {len(seen.failures)}",
    )


def test_a_promoter_that_is_killed_leaves_one_version_everywhere(
    release: Release, versions: tuple[str, str], counts: Repetitions, figures: Figures
) -> None:
    ended: list[str] = []
    kills = 0
    with release.traffic() as seen:
        for line, delay in POINTS[: counts.kills]:
            # A fast act ends before a late kill. Such a try is reported, and the next one counts.
            for _ in range(3):
                before, target = release.serving()[0], other(versions, release)
                killed = kill_promoter_after(release, target, line, delay)
                version, _ = release.agreed()
                assert version in (before, target)
                which = "the new" if version == target else "the old"
                late = "" if killed else " (too late)"
                ended.append(f"{line} +{delay:g} s: {which} version{late}")
                if killed:
                    kills += 1
                    break
    assert kills > counts.kills / 2, ended
    assert_served(seen, release, 200)
    figures.note("promoter killed with SIGKILL, its Job tries again", "; ".join(ended))


def kill_promoter_after(release: Release, version: str, line: str, delay: float) -> bool:
    """Promote, and kill the promoter after this line of its log; return whether it was killed.

    The Job has ended when this returns.
    """
    command = [
        sys.executable,
        "-c",
        "from jobs.cli import main; main()",
        "promote",
        "--on-cluster",
        "--version",
        version,
        "--alias",
        "production",
    ]
    output, killed = "", False
    with subprocess.Popen(
        command,
        env=release.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as following:
        for text in following.stdout or ():
            output += text
            if line in text and not killed:
                time.sleep(delay)
                job = output.split("Job ", 1)[1].split()[0]
                killed = kill_in_node(release, job)
        code = following.wait(300)
    assert code in (0, 65), output
    return killed


def kill_in_node(release: Release, job: str) -> bool:
    """Send SIGKILL to the promoter of this Job; return whether it ran.

    Tests of other namespaces have promoters on the same node.
    """
    node = f"{release.context.removeprefix('kind-')}-control-plane"
    find = (
        "for each in $(grep -lsz jobs.promote /proc/[0-9]*/cmdline | cut -d/ -f3); do "
        f"grep -qsz '^HOSTNAME={job}-' /proc/$each/environ && echo $each; done"
    )
    pids = run("docker", "exec", node, "sh", "-c", find, check=False).split()
    run("docker", "exec", node, "sh", "-c", f"kill -9 {' '.join(pids)}", check=False)
    return bool(pids)


def test_a_rolling_restart_and_evictions_under_load(release: Release, counts: Repetitions) -> None:
    with release.traffic() as seen:
        release.kubectl("rollout", "restart", f"deployment/{release.name}-inference")
        release.kubectl(
            "rollout", "status", f"deployment/{release.name}-inference", "--timeout=300s"
        )
        for pod in release.pods()[: counts.evictions]:
            evict(release, pod)
    assert_served(seen, release, 200)
    release.agreed()


def evict(release: Release, pod: str) -> None:
    """Evict the pod as the drain of a node does: repeat until the disruption budget allows it."""
    eviction = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": pod, "namespace": release.namespace},
    }
    path = f"/api/v1/namespaces/{release.namespace}/pods/{pod}/eviction"

    def allowed() -> bool:
        answer = release.kubectl(
            "create", "--raw", path, "-f", "-", stdin=json.dumps(eviction), check=False
        )
        return '"Success"' in answer

    until(allowed, 120, f"the eviction of {pod}")


def test_a_rollback_needs_neither_registry_nor_database(
    release: Release, versions: tuple[str, str], figures: Figures
) -> None:
    target = other(versions, release)
    before = release.serving()[0]
    assert release.promote(target).exit_code == 0
    with release.traffic() as seen:
        with release.away("deployment/mlflow", "statefulset/postgresql"):
            rollback = release.rollback()
            assert rollback.exit_code == 0, rollback.output
            assert release.serving()[0] == before
        version, epoch = release.agreed()
        assert version == before
    assert seen.failures == []
    assert seen.versions_after(rollback.returned) == {before}

    def caught_up() -> bool:
        row = release.sql(f"SELECT outcome FROM promotions WHERE epoch = {epoch}")
        return row == "done" and "production" in aliases_of(release, before)

    until(caught_up, 180, "alias and row follow the record")
    release.assert_all_audited(seen.ids)
    figures.note(
        "rollback with MLflow and PostgreSQL at 0 replicas, lock to convergence",
        f"{rollback.seconds:.1f} s; alias and row followed",
    )


def aliases_of(release: Release, version: str) -> list[str]:
    models = json.loads(release.fraudops("models", "--on-cluster", "--json").stdout)["versions"]
    return next(list(model["aliases"]) for model in models if model["version"] == version)


def test_new_pods_need_no_registry_and_surplus_pods_leave_under_load(
    release: Release, figures: Figures
) -> None:
    version = release.serving()[0]
    old = release.pods()
    with release.traffic() as seen:
        with release.away("deployment/mlflow"):
            release.scale(2 * PODS)
            release.kubectl("delete", *(f"pod/{pod}" for pod in old))
            until(
                lambda: len(release.pods()) == 2 * PODS and not set(old) & set(release.pods()),
                180,
                "six new pods",
            )
            release.kubectl(
                "rollout", "status", f"deployment/{release.name}-inference", "--timeout=300s"
            )
            sources = {source_of(release, pod) for pod in release.pods()}
        release.scale(PODS)
        until(
            lambda: len(release.objects("pods", "inference")) == PODS,
            90,
            "the surplus pods are gone",
        )
    assert release.agreed()[0] == version
    assert sources == {"peer"}
    assert_served(seen, release, 200)
    figures.note(
        "MLflow at 0 replicas, 3 to 6 pods, every old pod deleted",
        f"failed requests: {len(seen.failures)}; bundles from peers",
    )


def source_of(release: Release, pod: str) -> str:
    url = "http://127.0.0.1:8001/model_info"
    ask = f"import urllib.request as u; print(u.urlopen('{url}').read().decode())"
    answer = json.loads(release.kubectl("exec", pod, "-c", "inference", "--", "python", "-c", ask))
    return str(answer["model"]["source"])


def test_two_rollbacks_go_back_twice_and_never_forward(
    release: Release, versions: tuple[str, str]
) -> None:
    for _ in range(3):
        if len(release.record()["stack"]) < 2:
            assert release.promote(other(versions, release)).exit_code == 0
    stack = [entry["version"] for entry in release.record()["stack"]]
    assert len(stack) >= 2
    for version in stack[:2]:
        assert release.rollback().exit_code == 0
        assert release.agreed()[0] == version
