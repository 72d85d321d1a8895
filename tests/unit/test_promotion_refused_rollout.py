"""A rollout that is refused: the act ends when no pod serves its version, or it names the pods."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.ports import Clock, PodRef, PodUnresponsiveError
from fraudops.promotion.preparation import Preparation
from fraudops.promotion.serving_record import ServingTarget
from jobs.reports.promotion import ending
from tests.support.simulation.cluster import SimCluster, SimPod
from tests.support.simulation.jobs import ports_of
from tests.support.simulation.registry import digest_of
from tests.support.simulation.stage import Stage, on_stage
from tests.support.simulation.store import SimRollouts
from tests.support.simulation.world import Actor

TARGET = ServingTarget(3, "7", digest_of("7"))
DOWN = StoreDownError("the API is down")
SILENT = PodUnresponsiveError("no answer")


def let_only_two_new_pods_load(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    create = SimCluster.create

    def create_one(cluster: SimCluster, **traits: object) -> SimPod:
        pod = create(cluster, **traits)
        if sum(other.template is not None for other in cluster.pods) > 2:
            pod.refuses = frozenset({TARGET.digest})
        return pod

    monkeypatch.setattr(SimCluster, "create", create_one)


def answering(stage: Stage) -> list[str]:
    """Return the names of the pods that answer with the refused version."""
    pods = stage.world.cluster.pods
    return [pod.name for pod in pods if pod.answers_clients and pod.state.target == TARGET]


def test_a_refused_rollout_ends_when_no_pod_answers_with_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @on_stage()
    async def play(stage: Stage) -> None:
        let_only_two_new_pods_load(stage, monkeypatch)
        result = await stage.promote("7", "rollout")
        assert (result.outcome, result.behind) == ("refused", ())
        assert result.reason == (
            "after 60 s only 2 of 4 new pods are ready with version 7; waited for pod-7, pod-8, "
            "serving another version"
        )
        assert answering(stage) == []
        assert (stage.record.reserved, stage.world.store.template) == (None, None)
        with pytest.raises(RefusedError, match=r"another version\. Nothing has changed: version 1"):
            ending(result, 1.0, "")

    play()


def test_a_refused_rollout_names_the_pods_that_kubernetes_does_not_replace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @on_stage()
    async def play(stage: Stage) -> None:
        let_only_two_new_pods_load(stage, monkeypatch)
        promotion = stage.world.spawn(stage.promote("7", "rollout"))
        while len(answering(stage)) < 2:
            await stage.wait(0.5)
        # The API cannot tell that this node is lost.
        stage.world.cluster.lose(stage.pod("pod-5"), "kubelet")
        result = await promotion
        assert (result.outcome, result.behind, answering(stage)) == (
            "refused",
            ("pod-5",),
            ["pod-5"],
        )
        assert (result.reason or "").endswith(
            "; these pods may answer with version 7 until Kubernetes replaces them: pod-5"
        )
        assert stage.record.reserved is None
        assert stage.row("act-1").behind == ("pod-5",)
        with pytest.raises(RefusedError, match="The serving record has not changed: version 1"):
            ending(result, 1.0, "")

    play()


@pytest.mark.parametrize(("failures", "taken_back"), [(3, True), (1000, False)])
def test_a_rollout_that_cannot_be_taken_back_keeps_its_reservation(
    monkeypatch: pytest.MonkeyPatch, failures: int, taken_back: bool
) -> None:
    @on_stage(pods=2)
    async def play(stage: Stage) -> None:
        undo, errors = SimRollouts.undo, [DOWN] * failures

        async def fail(rollouts: SimRollouts, epoch: int) -> None:
            if errors:
                raise errors.pop()
            await undo(rollouts, epoch)

        monkeypatch.setattr(SimRollouts, "undo", fail)
        stage.world.cluster.schedules_from = 200.0
        result = await stage.promote("7", "rollout")
        assert result.outcome == "refused"
        assert (stage.record.reserved is None, stage.world.store.template is None) == (
            taken_back,
            taken_back,
        )
        errors.clear()
        await stage.reconcile()
        assert (stage.record.reserved, stage.world.store.template) == (None, None)
        assert stage.row("act-1").reason == result.reason

    play()


# -- the wait for Kubernetes


@dataclass
class ScriptedPods:
    """Pods as a test describes them: their epochs, and the errors of the next lists."""

    clock: Clock
    listed: Sequence[PodRef]
    epochs: dict[str, int | Exception]
    lists: list[Exception] = field(default_factory=list)
    wanted: int = 1
    listings: int = 0

    async def list(self) -> Sequence[PodRef]:
        self.listings += 1
        await self.clock.sleep(0)
        if self.lists:
            raise self.lists.pop(0)
        return self.listed

    async def desired_replicas(self) -> int:
        await self.clock.sleep(0)
        return self.wanted

    async def epoch(self, pod: PodRef) -> int:
        found = self.epochs[pod.name]
        if isinstance(found, Exception):
            raise found
        return found


class Wait:
    """A wait for the pods of the taken back rollout, which begins now."""

    def __init__(self, stage: Stage, *listed: PodRef, **epochs: int | Exception) -> None:
        self.stage, self.said = stage, list[str]()
        calm = ports_of(stage.world, Actor("act"))
        self.pods = ScriptedPods(calm.clock, listed, epochs)
        self.preparation = Preparation(replace(calm, pods=self.pods, say=self.said.append))
        self.began = stage.world.clock

    async def end(self) -> tuple[str, ...]:
        return await self.preparation.wait_until_replaced(TARGET)

    def after(self, seconds: float, change: Callable[[], None]) -> None:
        async def later() -> None:
            await self.stage.wait(seconds)
            change()

        self.stage.world.spawn(later())

    @property
    def taken(self) -> float:
        return self.stage.world.clock - self.began


OLD, NEW = PodRef("old", ready=True), PodRef("new", ready=True)


@on_stage(pods=0)
async def test_pods_at_another_epoch_need_no_wait(stage: Stage) -> None:
    # A later act may have brought the new pod to its own epoch.
    wait = Wait(stage, OLD, NEW, old=2, new=4)
    assert await wait.end() == ()
    assert wait.taken < 1


@on_stage(pods=0)
async def test_a_pod_that_serves_the_version_is_awaited_until_it_is_not_listed(
    stage: Stage,
) -> None:
    wait = Wait(stage, OLD, NEW, old=2, new=3)
    wait.after(12, lambda: setattr(wait.pods, "listed", [OLD]))
    assert await wait.end() == ()
    assert 12 <= wait.taken < 14
    waiting = [text for text in wait.said if "waiting" in text]
    assert waiting == ["waiting for Kubernetes to replace new"]


@on_stage(pods=0)
async def test_a_pod_that_goes_on_to_another_epoch_does_not_serve_the_version(
    stage: Stage,
) -> None:
    wait = Wait(stage, NEW, new=3)
    wait.after(5, lambda: wait.pods.epochs.update(new=4))
    assert await wait.end() == ()
    assert 5 <= wait.taken < 7


@pytest.mark.parametrize("state", ["running", "restarting", "lost"])
def test_a_pod_that_falls_silent_still_serves_the_version(state: str) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        wait = Wait(stage, OLD, NEW, old=2, new=3)
        silent = {
            "running": NEW,
            "restarting": PodRef("new", ready=False, running=False, restarting=True),
            "lost": PodRef("new", ready=False, lost="its node does not answer"),
        }[state]

        def fall_silent() -> None:
            wait.pods.listed = [OLD, silent]
            wait.pods.epochs["new"] = SILENT

        wait.after(3, fall_silent)
        assert await wait.end() == ("new",)
        assert 30 <= wait.taken < 33
        waiting = [text for text in wait.said if "waiting" in text]
        assert 2 <= len(waiting) <= 3

    play()


@on_stage(pods=0)
async def test_a_pod_that_answers_no_epoch_may_serve_the_version(stage: Stage) -> None:
    wait = Wait(stage, OLD, NEW, old=2, new=0)
    assert await wait.end() == ("new",)
    assert 30 <= wait.taken < 33


@on_stage(pods=0)
async def test_restarting_pods_and_pods_of_a_lost_node_are_not_awaited(stage: Stage) -> None:
    restarting = PodRef("new", ready=False, running=False, restarting=True)
    wait = Wait(stage, restarting, PodRef("lost", False, lost="dark"), lost=SILENT)
    assert await wait.end() == ()
    assert wait.taken < 1


@pytest.mark.parametrize("terminating", [False, True])
def test_a_pod_that_the_api_does_not_show_as_running_yet_is_awaited(terminating: bool) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        new = PodRef("new", ready=False, running=False, terminating=terminating)
        wait = Wait(stage, OLD, new, old=2)
        wait.after(3, lambda: setattr(wait.pods, "listed", [OLD]))
        assert await wait.end() == ()
        assert 3 <= wait.taken < 5

    play()


@pytest.mark.parametrize(("failures", "names"), [([DOWN] * 2, ()), ([DOWN] * 1000, ("every pod",))])
def test_pods_that_are_not_listed_may_all_serve_the_version(
    failures: list[Exception], names: tuple[str, ...]
) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        wait = Wait(stage, OLD, old=2)
        wait.pods.lists = list(failures)
        assert await wait.end() == names
        assert wait.taken < 33

    play()


@on_stage(pods=0)
async def test_a_pod_seen_before_the_api_fell_silent_is_named(stage: Stage) -> None:
    wait = Wait(stage, OLD, NEW, old=2, new=3)
    wait.after(3, lambda: wait.pods.lists.extend([DOWN] * 1000))
    assert await wait.end() == ("new",)
    assert 30 <= wait.taken < 33


@on_stage()
async def test_a_refused_broadcast_waits_for_no_pod(stage: Stage) -> None:
    stage.pod("pod-1").refuses = frozenset({digest_of("3")})
    stage.silence("pod-4")
    stage.make_unready("pod-4")
    assert (await stage.promote("3")).outcome == "refused"
    assert stage.world.clock < 15


@on_stage(pods=0)
async def test_pods_are_not_listed_without_pauses(stage: Stage) -> None:
    wait = Wait(stage, NEW, new=3)
    assert await wait.end() == ("new",)
    assert wait.pods.listings <= wait.taken / wait.preparation.ports.deadlines.pause


@on_stage(pods=0)
async def test_a_pod_that_has_never_run_on_a_lost_node_is_not_waited_for(stage: Stage) -> None:
    lost = PodRef("new", ready=False, running=False, lost="its node does not answer")
    wait = Wait(stage, lost)
    assert await wait.end() == ()
    assert wait.pods.listings == 1


# -- the pods that a rollout counts


@on_stage(pods=0)
async def test_a_pod_whose_container_has_ended_is_no_new_pod(stage: Stage) -> None:
    restarting = PodRef("restarting", ready=True, running=False, restarting=True)
    wait = Wait(stage, NEW, restarting, new=3, restarting=3)
    wait.pods.wanted = 2
    failure = await wait.preparation.roll_out(TARGET)
    assert "only 1 of 2 new pods" in str(failure)
