"""Nodes that vanish: promotions and rollbacks end within their deadlines, and the way back works.

One pod runs on the spare node of tests/cluster/kind-config.yaml. First the node's container is
paused, so that nothing on it answers. Then only its kubelet is stopped: the API calls the node
dead, but the pod still answers on connections that clients have kept open.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest

from tests.cluster.neighbours import in_namespace, values_of_neighbour
from tests.cluster.observations import Promoted
from tests.cluster.release import Release, run, until
from tests.support.figures import PROOF, Figures
from tests.support.waiting import eventually

# Prepare, activate, and the time after a deletion: `promotion` of the chart's values. The rest is
# the start of the Job.
DEADLINE_SECONDS = 60 + 30 + 45 + 30


@dataclass(frozen=True)
class Spare:
    """A release with one pod on the spare node."""

    release: Release
    node: str
    pod: str

    def node_is_ready(self) -> bool:
        return is_ready(self.release, "node", self.node)

    def pod_is_ready(self) -> bool:
        return is_ready(self.release, "pod", self.pod)


def is_ready(release: Release, kind: str, name: str) -> bool:
    conditions = release.get(kind, name)["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


@pytest.fixture(scope="module")
def promoted(installed_release: Release) -> Iterator[Release]:
    """Yield a release of its own: three pods, none on the spare node yet, and two ways back."""
    node = spare_node(installed_release)
    nodes = [item["metadata"]["name"] for item in installed_release.get("nodes")["items"]]
    assert node in nodes, "no spare node: run `make kind-down`, then `make cluster-test`"
    values = values_of_neighbour(installed_release)
    values["inference"] |= {
        "replicas": 3,
        "tolerations": [{"key": "fraudops.io/spare", "operator": "Exists"}],
    }
    with in_namespace(replace(installed_release, values=values), "vanished") as own:
        with cordoned(own, node):
            # One try shows the ending. Later tries only repeat it.
            own.install("jobs.backoffLimit=0")
        for version in (own.new_version(11), own.serving()[0]):
            assert own.promote(version).exit_code == 0
        yield own


def spare_node(release: Release) -> str:
    return f"{release.context.removeprefix('kind-')}-worker"


@contextmanager
def cordoned(release: Release, node: str) -> Iterator[None]:
    release.kubectl("cordon", node)
    try:
        yield
    finally:
        release.kubectl("uncordon", node)


@pytest.fixture
def spare(promoted: Release) -> Spare:
    """Return the release when exactly one of its pods runs on the spare node."""
    release = promoted
    node = spare_node(release)
    until(lambda: is_ready(release, "node", node), 120, "the spare node is ready")
    if not on_node(release, node):
        with cordoned(release, node.replace("-worker", "-control-plane")):
            release.kubectl("delete", f"pod/{release.pods()[0]}")
            release.kubectl("rollout", "status", f"deployment/{release.name}-inference")
    release.agreed()
    (pod,) = on_node(release, node)
    return Spare(release, node, pod)


def on_node(release: Release, node: str) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in release.objects("pods", "inference")
        if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]
    ]


def other_than(release: Release) -> str:
    return "1" if release.serving()[0] != "1" else "2"


def seconds_of(promoted: Promoted) -> float:
    return promoted.lines[-1][0] - promoted.lines[0][0]


@contextmanager
def paused(node: str) -> Iterator[None]:
    # On a busy machine the first try may not freeze every process of the node.
    eventually(lambda: run("docker", "pause", node), 60, 1.0)
    try:
        yield
    finally:
        run("docker", "unpause", node)


@contextmanager
def without_kubelet(node: str) -> Iterator[None]:
    run("docker", "exec", node, "systemctl", "stop", "kubelet")
    try:
        yield
    finally:
        run("docker", "exec", node, "systemctl", "start", "kubelet")


def test_a_node_that_answers_nothing(spare: Spare, figures: Figures) -> None:
    release, (before, _) = spare.release, spare.release.serving()
    target = other_than(release)
    with paused(spare.node):
        promoted = release.promote(target)
        assert promoted.exit_code == 75, promoted.output
        assert spare.pod in promoted.output
        assert release.serving()[0] == target
        assert not spare.node_is_ready()
        back = release.rollback()
        assert back.exit_code == 75, back.output
        assert spare.pod in back.output
        assert release.serving()[0] == before
        acts = [promoted, back]
        if PROOF:
            acts.append(release.rollback())
            assert acts[-1].exit_code == 75, acts[-1].output
            assert release.serving()[0] != before
        last = release.serving()
    assert max(map(seconds_of, acts)) < DEADLINE_SECONDS
    assert release.agreed() == last
    figures.note(
        "a paused node with one of three pods: a promotion, then two rollbacks",
        f"each unconfirmed, naming the pod, after "
        f"{', '.join(f'{seconds_of(act):.0f} s' for act in acts)}; "
        "all pods agree when the node is back",
    )


def test_a_node_without_kubelet_whose_pod_still_answers(spare: Spare, figures: Figures) -> None:
    release, (before, _) = spare.release, spare.release.serving()
    target = other_than(release)
    with release.traffic() as seen, without_kubelet(spare.node):
        promoted = release.promote(target)
        assert promoted.exit_code == 0, promoted.output
        until(lambda: not spare.pod_is_ready(), 120, "the API calls the pod not ready")
        assert not spare.node_is_ready()
        back = release.rollback()
        assert back.exit_code == 0, back.output
        assert release.serving()[0] == before
    assert seen.failures == []
    assert seen.versions_after(promoted.returned, back.moment("reserved epoch")) == {target}
    assert seen.versions_after(back.returned) == {before}
    assert max(map(seconds_of, (promoted, back))) < DEADLINE_SECONDS
    assert release.agreed()[0] == before
    figures.note(
        "a node without kubelet whose pod answers on kept-alive connections",
        f"promotion and rollback done; {seen.answered} requests, failed: {len(seen.failures)}, "
        "answered by an old version: 0",
    )
