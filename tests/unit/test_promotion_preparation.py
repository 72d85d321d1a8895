"""Before a commit: which pods are asked, which have a veto, and how long anybody waits."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.ports import (
    Clock,
    PodRef,
    PodRefusedError,
    PodUnresponsiveError,
    PromotionPorts,
    StaleRecordError,
    UnknownWriteError,
)
from fraudops.promotion.preparation import Preparation, pod_epochs, voters_of
from fraudops.promotion.serving_record import ServingTarget
from tests.support.simulation.jobs import ports_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage
from tests.support.simulation.world import Actor

TARGET = ServingTarget(3, "3", "3" * 64)
REFUSED, SILENT = PodRefusedError("it scores otherwise"), PodUnresponsiveError("no answer")
DOWN = StoreDownError("the API is down")


def ready(name: str) -> PodRef:
    return PodRef(name, ready=True)


@dataclass
class ScriptedPods:
    """Pods as a test describes them.

    `answers` has what each call of `prepare` to a pod ends with: an error, or the seconds until
    the pod has prepared. `epochs` has what each pod has reached, or the error of the call.
    """

    clock: Clock
    listed: Sequence[PodRef]
    answers: dict[str, list[float | Exception]] = field(default_factory=dict)
    epochs: dict[str, int | Exception] = field(default_factory=dict)
    wanted: int = 1
    drops: Exception | None = None
    lists: list[Exception] = field(default_factory=list)
    listings: int = 0
    asked: list[tuple[str, ServingTarget, float]] = field(default_factory=list)
    dropped: list[tuple[str, ServingTarget]] = field(default_factory=list)

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
        found = self.epochs.get(pod.name, 0)
        if isinstance(found, Exception):
            raise found
        return found

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        self.asked.append((pod.name, target, seconds))
        answers = self.answers.get(pod.name, [])
        answer = answers.pop(0) if answers else 0.1
        await self.clock.sleep(0.01)
        if isinstance(answer, Exception):
            raise answer
        await self.clock.sleep(min(answer, seconds))
        if answer > seconds:
            raise PodUnresponsiveError("no answer in time")

    async def drop(self, pod: PodRef, target: ServingTarget) -> None:
        self.dropped.append((pod.name, target))
        if self.drops:
            raise self.drops

    @property
    def names(self) -> set[str]:
        return {name for name, _, _ in self.asked}


class Act:
    """A preparation over scripted pods, and what it says."""

    def __init__(self, stage: Stage, *listed: PodRef, rollouts: Any = None, **script: Any) -> None:
        self.stage, self.said = stage, list[str]()
        calm = ports_of(stage.world, Actor("act"))
        self.pods = ScriptedPods(calm.clock, listed, **script)
        self.ports: PromotionPorts = replace(
            calm, pods=self.pods, say=self.said.append, rollouts=rollouts or calm.rollouts
        )
        self.preparation = Preparation(self.ports)
        self.began = stage.world.clock

    async def prepare(self) -> str | None:
        return await self.preparation.prepare(TARGET)

    @property
    def taken(self) -> float:
        return self.stage.world.clock - self.began

    async def change(self, seconds: float, *listed: PodRef) -> None:
        await self.stage.wait(seconds)
        self.pods.listed = listed


# -- who has a veto


def test_only_ready_pods_have_a_veto_while_one_is_ready() -> None:
    pods = [ready("a"), PodRef("b", ready=False), ready("c")]
    assert [pod.name for pod in voters_of(pods)] == ["a", "c"]


def test_without_a_ready_pod_all_that_can_answer_have_a_veto() -> None:
    able = PodRef("a", ready=False)
    unable = [
        PodRef("b", ready=False, running=False),
        PodRef("c", ready=True, lost="its node does not answer"),
        PodRef("d", ready=True, terminating=True),
    ]
    assert voters_of([able, *unable]) == [able]
    assert voters_of(unable) == []


@on_stage(pods=0)
async def test_every_ready_pod_prepares_the_version_before_the_deadline(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), wanted=2)
    assert await act.prepare() is None
    assert [(name, target) for name, target, _ in act.pods.asked] == [("a", TARGET), ("b", TARGET)]
    limit = act.ports.deadlines.prepare
    assert all(limit - 1 < seconds <= limit for _, _, seconds in act.pods.asked)
    assert {"prepared on a", "prepared on b"} <= set(act.said)
    assert act.taken < 2


@on_stage(pods=0)
async def test_one_refusal_ends_the_act_and_gives_its_reason(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), ready("c"), answers={"b": [REFUSED], "c": [30.0]})
    assert await act.prepare() == "pod b: it scores otherwise"
    # It does not wait for the slow pod.
    assert act.taken < 5
    await stage.wait(5)
    assert [name for name, _, _ in act.pods.asked].count("c") == 1


@on_stage(pods=0)
async def test_the_first_refusal_of_the_list_is_the_reason(stage: Stage) -> None:
    answers = {name: [PodRefusedError(f"reason {name}")] for name in ("a", "b", "c")}
    act = Act(stage, ready("a"), ready("b"), ready("c"), answers=answers)
    assert await act.prepare() == "pod a: reason a"


@on_stage(pods=0)
async def test_a_ready_pod_that_is_slow_is_waited_for(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), answers={"b": [8.0]})
    assert await act.prepare() is None
    assert 8 <= act.taken < 11
    assert [name for name, _, _ in act.pods.asked] == ["a", "b"]


@on_stage(pods=0)
async def test_a_pod_that_cannot_answer_now_is_asked_again(stage: Stage) -> None:
    act = Act(stage, ready("a"), answers={"a": [SILENT, SILENT]})
    assert await act.prepare() is None
    assert len(act.pods.asked) == 3
    left = [seconds for _, _, seconds in act.pods.asked]
    pause = act.ports.deadlines.pause
    assert left[0] - left[1] > pause
    assert left[1] - left[2] > pause


@on_stage(pods=0)
async def test_the_silence_of_a_ready_pod_is_no_consent(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), answers={"b": [SILENT] * 1000})
    reason = await act.prepare()
    assert "pod b was not prepared within 20 s: no answer" in str(reason)
    assert 20 <= act.taken < 23
    calls = len(act.pods.asked)
    await stage.wait(5)
    assert len(act.pods.asked) == calls


@on_stage(pods=0)
async def test_a_pod_that_hangs_in_its_call_has_not_consented(stage: Stage) -> None:
    act = Act(stage, ready("a"), answers={"a": [FOR_EVER] * 10})
    reason = await act.prepare()
    assert "pod a was not prepared within 20 s" in str(reason)
    assert 20 <= act.taken < 23


@on_stage(pods=0)
async def test_a_pod_that_turns_ready_late_is_named_when_the_time_is_over(stage: Stage) -> None:
    act = Act(stage, ready("a"), answers={"a": [19.7]})
    waiting = stage.world.spawn(act.change(17.0, ready("a"), ready("b")))
    act.pods.answers["b"] = [FOR_EVER]
    assert "pod b was not prepared within 20 s" in str(await act.prepare())
    await waiting


@on_stage(pods=0)
async def test_an_unready_pod_is_asked_and_not_waited_for(stage: Stage) -> None:
    unready = PodRef("b", ready=False)
    act = Act(stage, ready("a"), unready, answers={"b": [FOR_EVER]})
    assert await act.prepare() is None
    assert act.pods.names == {"a", "b"}
    assert act.taken < 3


@on_stage(pods=0)
async def test_a_refusal_of_an_unready_pod_does_not_count(stage: Stage) -> None:
    act = Act(stage, PodRef("b", ready=False), ready("a"), answers={"b": [REFUSED], "a": [2.0]})
    assert await act.prepare() is None


@on_stage(pods=0)
async def test_pods_that_cannot_answer_are_not_asked(stage: Stage) -> None:
    lost = PodRef("b", ready=True, lost="its node does not answer")
    starting = PodRef("c", ready=False, running=False)
    act = Act(stage, ready("a"), lost, starting)
    assert await act.prepare() is None
    assert act.pods.names == {"a"}


@on_stage(pods=0)
async def test_a_terminating_pod_is_asked_and_has_no_veto(stage: Stage) -> None:
    ending = PodRef("b", ready=True, terminating=True)
    act = Act(stage, ready("a"), ending, answers={"b": [REFUSED], "a": [2.0]})
    assert await act.prepare() is None
    assert act.pods.names == {"a", "b"}


@on_stage(pods=0)
async def test_a_pod_that_turns_ready_during_the_prepare_is_waited_for(stage: Stage) -> None:
    act = Act(stage, ready("a"), answers={"a": [4.0], "b": [REFUSED]})
    change = stage.world.spawn(act.change(1.0, ready("a"), ready("b")))
    assert await act.prepare() == "pod b: it scores otherwise"
    await change


@on_stage(pods=0)
async def test_a_silent_pod_that_goes_away_holds_nothing_up(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), answers={"b": [SILENT] * 1000})
    change = stage.world.spawn(act.change(3.0, ready("a")))
    assert await act.prepare() is None
    assert act.taken < 6
    await change


# -- no pods


@on_stage(pods=0)
async def test_no_pod_is_no_consent_while_one_is_wanted(stage: Stage) -> None:
    act = Act(stage)
    assert "there is no pod to prepare" in str(await act.prepare())
    assert 20 <= act.taken < 23
    # Without a pause between two looks, the Kubernetes API gets a storm of calls.
    assert act.pods.listings < 50


@on_stage(pods=0)
async def test_pods_that_cannot_prepare_are_named(stage: Stage) -> None:
    act = Act(stage, PodRef("b", ready=False, running=False), PodRef("c", False, lost="dark"))
    reason = await act.prepare()
    assert "no pod can be prepared within 20 s: b (not ready), c (dark)" in str(reason)


@on_stage(pods=0)
async def test_a_service_scaled_to_zero_needs_no_pod(stage: Stage) -> None:
    act = Act(stage, wanted=0)
    assert await act.prepare() is None
    assert act.taken < 1


@on_stage(pods=0)
async def test_a_service_scaled_to_zero_still_asks_the_pods_that_run(stage: Stage) -> None:
    act = Act(stage, ready("a"), wanted=0, answers={"a": [REFUSED]})
    assert await act.prepare() == "pod a: it scores otherwise"


@on_stage(pods=0)
async def test_one_unlisted_moment_does_not_end_the_prepare(stage: Stage) -> None:
    act = Act(stage, ready("a"), lists=[DOWN, DOWN])
    assert await act.prepare() is None
    assert 0.2 < act.taken < 10


@on_stage(pods=0)
async def test_pods_that_cannot_be_listed_end_the_act(stage: Stage) -> None:
    act = Act(stage, ready("a"), lists=[DOWN] * 1000)
    assert await act.prepare() == "the API is down"
    assert 20 <= act.taken < 23


@on_stage(pods=0)
async def test_a_long_prepare_says_whom_it_waits_for_and_why(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), answers={"a": [SILENT] * 1000, "b": [18.0]})
    await act.prepare()
    waiting = [text for text in act.said if text.startswith("waiting for")]
    assert 1 <= len(waiting) <= 2
    assert "a: no answer" in waiting[0]
    assert "b: it has not answered yet" in waiting[0]


@on_stage(pods=0)
async def test_a_prepare_without_pods_says_that_it_waits_for_one(stage: Stage) -> None:
    act = Act(stage)
    await act.prepare()
    assert any(text.startswith("waiting for a pod") for text in act.said)


# -- a rollout


@dataclass
class ScriptedRollouts:
    """Rollouts whose next calls end with the given errors."""

    errors: list[Exception] = field(default_factory=list)
    annotations: list[ServingTarget] = field(default_factory=list)
    undone: list[int] = field(default_factory=list)

    async def annotate(self, target: ServingTarget) -> None:
        self._fail()
        self.annotations.append(target)

    async def undo(self, epoch: int) -> None:
        self._fail()
        self.undone.append(epoch)

    async def annotated(self) -> ServingTarget | None:
        return self.annotations[-1] if self.annotations else None

    def _fail(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


@on_stage(pods=0)
async def test_a_rollout_ends_when_as_many_new_pods_as_wanted_are_ready(stage: Stage) -> None:
    rollouts = ScriptedRollouts()
    act = Act(stage, ready("old"), rollouts=rollouts, wanted=2)
    act.pods.epochs = {"old": 2, "new-1": 3, "new-2": 3}
    first = stage.world.spawn(act.change(5, ready("old"), ready("new-1")))
    last = stage.world.spawn(act.change(15, ready("new-1"), ready("new-2")))
    assert await act.preparation.roll_out(TARGET) is None
    await asyncio.gather(first, last)
    assert rollouts.annotations == [TARGET]
    assert 15 <= act.taken < 18
    progress = [text for text in act.said if "new pods are ready" in text]
    assert progress == [
        "0 of 2 new pods are ready; waiting for old, serving another version",
        "1 of 2 new pods are ready; waiting for old, serving another version",
    ]


@on_stage(pods=0)
async def test_new_pods_that_take_no_connections_do_not_end_a_rollout(stage: Stage) -> None:
    pods = [
        PodRef("unready", ready=False),
        PodRef("ending", ready=True, terminating=True),
        PodRef("lost", ready=True, lost="dark"),
    ]
    act = Act(stage, *pods, rollouts=ScriptedRollouts(), wanted=1)
    act.pods.epochs = {pod.name: 3 for pod in pods}
    reason = await act.preparation.roll_out(TARGET)
    assert "after 60 s only 0 of 1 new pods are ready with version 3" in str(reason)
    assert "waited for unready (not ready), lost (dark)" in str(reason)
    assert 60 <= act.taken < 65
    progress = [text for text in act.said if "new pods are ready" in text]
    assert 3 <= len(progress) <= 7


@on_stage(pods=0)
async def test_more_new_pods_than_wanted_end_a_rollout_too(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), rollouts=ScriptedRollouts(), wanted=1)
    act.pods.epochs = {"a": 3, "b": 3}
    assert await act.preparation.roll_out(TARGET) is None


@on_stage(pods=0)
async def test_a_rollout_waits_for_an_api_that_is_down_for_a_moment(stage: Stage) -> None:
    act = Act(stage, ready("a"), rollouts=ScriptedRollouts(), lists=[DOWN, DOWN])
    act.pods.epochs = {"a": 3}
    assert await act.preparation.roll_out(TARGET) is None


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([UnknownWriteError("no answer")] * 2, None),
        ([UnknownWriteError("no answer")] * 1000, "does not answer writes"),
        ([StaleRecordError("another template")], "another template"),
        ([DOWN], None),
        ([DOWN] * 1000, "the API is down"),
        ([FraudopsError("the policy denies it")], "the policy denies it"),
    ],
)
def test_a_rollout_starts_when_its_annotation_is_written(
    errors: list[Exception], reason: str | None
) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        act = Act(stage, ready("a"), rollouts=ScriptedRollouts(list(errors)))
        act.pods.epochs = {"a": 3}
        ended = await act.preparation.roll_out(TARGET)
        assert (ended is None) == (reason is None)
        assert (reason or "") in (ended or "")

    play()


# -- after an act that was not committed


@on_stage(pods=0)
async def test_every_running_pod_drops_a_version_that_was_not_committed(stage: Stage) -> None:
    pods = [ready("a"), PodRef("b", ready=False), PodRef("c", ready=False, running=False)]
    act = Act(stage, *pods, rollouts=ScriptedRollouts())
    await act.preparation.take_back(TARGET, by_rollout=False)
    assert act.pods.dropped == [("a", TARGET), ("b", TARGET)]
    assert act.ports.rollouts.undone == []


@pytest.mark.parametrize("error", [REFUSED, SILENT])
def test_a_pod_that_does_not_drop_a_version_ends_nothing(error: Exception) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        act = Act(stage, ready("a"), ready("b"), drops=error)
        await act.preparation.drop(TARGET)
        assert len(act.pods.dropped) == 2
        assert any("b" in text and "deadline" in text for text in act.said)

    play()


@on_stage(pods=0)
async def test_pods_that_are_not_listed_drop_the_version_at_their_deadline(stage: Stage) -> None:
    act = Act(stage, ready("a"), lists=[DOWN])
    await act.preparation.drop(TARGET)
    assert act.pods.dropped == []


@pytest.mark.parametrize(
    ("errors", "undone"),
    [
        ([], [3]),
        ([UnknownWriteError("no answer")], [3]),
        ([UnknownWriteError("no answer")] * 1000, []),
        ([StaleRecordError("another template")], []),
        ([DOWN], [3]),
        ([DOWN] * 1000, []),
    ],
)
def test_a_rollout_is_taken_back_and_the_pods_drop_the_version(
    errors: list[Exception], undone: list[int]
) -> None:
    play_take_back(list(errors), lambda act: act.ports.rollouts.undone == undone)


def play_take_back(errors: list[Exception], holds: Callable[[Act], bool]) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        act = Act(stage, ready("a"), rollouts=ScriptedRollouts(errors))
        await act.preparation.take_back(TARGET, by_rollout=True)
        assert holds(act)
        assert act.pods.dropped == [("a", TARGET)]

    play()


# -- the epochs of pods


@on_stage(pods=0)
async def test_a_pod_that_does_not_answer_counts_as_epoch_0(stage: Stage) -> None:
    pods = [ready("a"), ready("b"), ready("c"), PodRef("d", ready=False, running=False)]
    epochs = {"a": 7, "b": SILENT, "c": REFUSED, "d": 9}
    act = Act(stage, epochs=epochs)
    assert await pod_epochs(act.ports, pods) == [7, 0, 0]
