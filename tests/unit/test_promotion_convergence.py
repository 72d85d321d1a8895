"""After a commit: pods that do not follow are deleted, awaited, or the act is undone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.convergence import Convergence, Ending
from fraudops.promotion.patience import Superseded
from fraudops.promotion.ports import Clock, PodRef, PodRefusedError, PodUnresponsiveError
from fraudops.promotion.serving_record import encode, keep_outcome
from tests.support.simulation.founding import entry_of
from tests.support.simulation.jobs import ports_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage
from tests.support.simulation.world import Actor

SILENT, REFUSED = PodUnresponsiveError("no answer"), PodRefusedError("it cannot")
DOWN = StoreDownError("the API is down")
REQUEST = "founder-3"


def ready(name: str) -> PodRef:
    return PodRef(name, ready=True)


def unready(name: str) -> PodRef:
    return PodRef(name, ready=False)


def ending(name: str, lost: str | None = None) -> PodRef:
    return PodRef(name, ready=True, terminating=True, lost=lost)


@dataclass
class ScriptedPods:
    """Pods as a test describes them.

    `silent` has the time until which each pod fails its calls with `error`. `reaches` has the
    epoch that a pod answers with, if that is not the epoch that it was asked for. `on_call`
    happens after the first call of `activate`.
    """

    clock: Clock
    listed: Sequence[PodRef]
    silent: dict[str, float] = field(default_factory=dict)
    reaches: dict[str, int] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    error: Exception = SILENT
    wanted: int = 1
    lists: list[Exception] = field(default_factory=list)
    deletion: FraudopsError | None = None
    goes_after: float = 1.0
    on_call: Callable[[], None] | None = None
    on_epoch: Callable[[], None] | None = None
    calls: list[tuple[str, int, float]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    gone: dict[str, float] = field(default_factory=dict)

    async def list(self) -> Sequence[PodRef]:
        await self.clock.sleep(0)
        if self.lists:
            raise self.lists.pop(0)
        now = self.clock.now()
        return [pod for pod in self.listed if now < self.gone.get(pod.name, FOR_EVER)]

    async def desired_replicas(self) -> int:
        await self.clock.sleep(0)
        return self.wanted

    async def epoch(self, pod: PodRef) -> int:
        if self.on_epoch:
            self.on_epoch()
        return self.epochs.get(pod.name, 0)

    async def activate(self, pod: PodRef, epoch: int, seconds: float) -> int:
        self.calls.append((pod.name, epoch, seconds))
        await self.clock.sleep(0)
        if self.on_call:
            self.on_call()
            self.on_call = None
        if self.clock.now() < self.silent.get(pod.name, 0.0):
            raise self.error
        return self.reaches.get(pod.name, epoch)

    async def delete(self, pod: PodRef) -> None:
        self.deleted.append(pod.name)
        if self.deletion:
            raise self.deletion
        self.gone[pod.name] = self.clock.now() + self.goes_after


class Act:
    """The promotion of version 3 as epoch 3, just committed. Version 1 served before."""

    def __init__(self, stage: Stage, *listed: PodRef, **script: Any) -> None:
        self.stage, self.said = stage, list[str]()
        # The checks of whole acts do not apply: this one begins after its commit.
        stage.world.checks.commits = SimpleNamespace(on_commit=lambda *_: None)
        before = stage.record.current
        assert before is not None
        self.attempt = Attempt(
            request=REQUEST, requested_by="user", at="then", version="3", epoch=3, outcome="done"
        )
        unreported = msgspec.structs.replace(self.attempt, outcome="unconfirmed")
        record = msgspec.structs.replace(
            stage.record,
            current=entry_of("3", 3),
            previous=before,
            stack=(before, *stage.record.stack),
            highest_reserved=3,
        )
        self.put(keep_outcome(record, unreported))
        calm = ports_of(stage.world, Actor("act"))
        self.pods = ScriptedPods(calm.clock, listed, **script)
        self.ports = replace(calm, pods=self.pods, say=self.said.append)
        self.convergence = Convergence(self.ports)
        self.began = stage.world.clock

    def put(self, record: Any) -> None:
        """Let another writer change the record."""
        store = self.stage.world.store
        store.start_from(encode(record))
        store.token += 1

    def change(self, **fields: Any) -> None:
        self.put(msgspec.structs.replace(self.stage.record, **fields))

    def overtake(self) -> None:
        """Let another act promote version 2 as epoch 4."""
        current, stack = self.stage.record.current, self.stage.record.stack
        assert current is not None
        self.change(current=entry_of("2", 4), previous=current, stack=(current, *stack))

    async def finish(self) -> Ending:
        async with self.ports.lock.hold(REQUEST):
            self.began = self.stage.world.clock
            return await self.convergence.finish(self.attempt, self.stage.record)

    async def look(self) -> Ending:
        return await self.convergence.look(self.attempt, self.stage.record)

    @property
    def taken(self) -> float:
        return self.stage.world.clock - self.began

    def called(self, name: str) -> int:
        return [pod for pod, _, _ in self.pods.calls].count(name)


def outcome(ending: Ending) -> tuple[str, tuple[str, ...]]:
    return ending.attempt.outcome, ending.attempt.behind


def for_ever(*names: str) -> dict[str, float]:
    return dict.fromkeys(names, FOR_EVER)


@on_stage(pods=0)
async def test_an_act_is_done_when_every_running_pod_follows(stage: Stage) -> None:
    act = Act(stage, ready("a"), unready("b"), ending("c"), PodRef("d", False, running=False))
    record = stage.record
    end = await act.finish()
    assert end == Ending(act.attempt, record, ())
    assert [(name, epoch) for name, epoch, _ in act.pods.calls] == [("a", 3), ("b", 3), ("c", 3)]
    assert all(19 < seconds <= 20 for _, _, seconds in act.pods.calls)
    assert stage.world.registry.aliases == {"production": "3", "champion": "1"}
    assert act.taken < 2


@pytest.mark.parametrize("error", [SILENT, REFUSED])
def test_a_pod_that_has_not_followed_yet_is_called_again(error: Exception) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        act = Act(stage, ready("a"), ready("b"), silent={"b": 5.0}, error=error)
        assert outcome(await act.finish()) == ("done", ())
        assert 4 < act.taken < 8
        assert act.called("a") == 1
        assert 2 < act.called("b") < 30
        assert act.pods.deleted == []

    play()


@on_stage(pods=0)
async def test_a_pod_that_starts_meanwhile_must_follow_too(stage: Stage) -> None:
    act = Act(stage, ready("a"), silent={"a": 3.0})
    act.pods.on_call = lambda: setattr(act.pods, "listed", [ready("a"), ready("new")])
    assert outcome(await act.finish()) == ("done", ())
    assert act.called("new") == 1


@on_stage(pods=0)
async def test_a_long_activation_says_which_pods_it_waits_for(stage: Stage) -> None:
    act = Act(stage, unready("a"), silent=for_ever("a"))
    await act.finish()
    waiting = [text for text in act.said if text.startswith("waiting for a")]
    assert 1 <= len(waiting) <= 2


@on_stage(pods=0)
async def test_a_registry_that_does_not_answer_makes_only_the_alias_late(stage: Stage) -> None:
    act = Act(stage, ready("a"))
    stage.world.registry.down_until = FOR_EVER
    end = await act.finish()
    assert (outcome(end), end.late) == (("done", ()), ("alias",))


# -- no pods


@on_stage(pods=0)
async def test_no_pod_is_no_success_while_one_is_wanted(stage: Stage) -> None:
    act = Act(stage)
    end = await act.finish()
    assert outcome(end) == ("unconfirmed", ())
    assert "no pod" in str(end.attempt.reason)
    assert 20 <= act.taken < 23
    assert (act.pods.deleted, stage.serving) == ([], ("3", 3))


@on_stage(pods=0)
async def test_a_service_scaled_to_zero_has_no_pod_to_wait_for(stage: Stage) -> None:
    act = Act(stage, PodRef("a", ready=False, running=False), wanted=0)
    assert outcome(await act.finish()) == ("done", ())
    assert act.taken < 2


@on_stage(pods=0)
async def test_pods_that_nobody_lists_have_not_followed(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), lists=[DOWN] * 1000)
    end = await act.finish()
    assert outcome(end) == ("unconfirmed", ("every pod",))
    assert "does not list them" in str(end.attempt.reason)
    assert 20 <= act.taken < 23
    assert (act.pods.deleted, stage.serving) == ([], ("3", 3))


@on_stage(pods=0)
async def test_an_api_that_is_down_for_a_moment_ends_nothing(stage: Stage) -> None:
    act = Act(stage, ready("a"), lists=[DOWN, DOWN])
    assert outcome(await act.finish()) == ("done", ())


# 2: it stays behind. 9: its record was restored from an old backup, and it serves another model.
@pytest.mark.parametrize("epoch", [2, 9])
def test_a_pod_at_an_epoch_that_the_record_does_not_have_has_not_followed(epoch: int) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        act = Act(stage, unready("a"), reaches={"a": epoch})
        assert outcome(await act.finish()) == ("unconfirmed", ("a",))

    play()


@on_stage(pods=0)
async def test_a_pod_that_follows_a_later_act_has_followed_this_one(stage: Stage) -> None:
    act = Act(stage, ready("a"), reaches={"a": 4})
    act.pods.on_call = act.overtake
    assert outcome(await act.look()) == ("done", ())


@on_stage(pods=0)
async def test_a_pod_ahead_of_a_record_that_nobody_can_read_has_not_followed(stage: Stage) -> None:
    act = Act(stage, unready("a"), reaches={"a": 9})
    act.pods.on_call = lambda: setattr(stage.world.store, "api_down_until", FOR_EVER)
    assert outcome(await act.look()) == ("unconfirmed", ("a",))


# -- one silent pod


@on_stage(pods=0)
async def test_one_silent_pod_is_deleted_and_the_act_is_done_when_it_is_gone(stage: Stage) -> None:
    act = Act(stage, unready("x"), ready("a"), ready("b"), silent=for_ever("b") | {"x": 25.0})
    assert outcome(await act.finish()) == ("done", ())
    assert act.pods.deleted == ["b"]
    assert 20 < act.taken < 40
    assert stage.serving == ("3", 3)


@on_stage(pods=0)
async def test_a_deleted_pod_that_stays_listed_has_not_followed(stage: Stage) -> None:
    act = Act(stage, ready("a"), silent=for_ever("a"), goes_after=FOR_EVER)
    end = await act.finish()
    assert outcome(end) == ("unconfirmed", ("a",))
    assert "not confirmed by a" in str(end.attempt.reason)
    assert end.record.epoch == 3
    assert 50 <= act.taken < 55


@pytest.mark.parametrize("error", [SILENT, REFUSED, DOWN])
def test_a_pod_that_cannot_be_deleted_is_named_and_not_awaited(error: FraudopsError) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        act = Act(stage, ready("a"), silent=for_ever("a"), deletion=error)
        assert outcome(await act.finish()) == ("unconfirmed", ("a",))
        assert act.pods.deleted == ["a"]
        assert act.taken < 25

    play()


@on_stage(pods=0)
async def test_a_pod_that_ends_by_itself_is_awaited_and_not_deleted(stage: Stage) -> None:
    act = Act(stage, ending("a"), unready("b"), silent={"b": 22.0} | for_ever("a"))
    act.pods.gone["a"] = 30.0
    assert outcome(await act.finish()) == ("done", ())
    assert act.pods.deleted == []


@on_stage(pods=0)
async def test_a_pod_that_ends_is_awaited_although_another_cannot_be_deleted(stage: Stage) -> None:
    act = Act(stage, ending("a"), ready("b"), silent={"a": 25.0, "b": 25.0}, deletion=DOWN)
    assert outcome(await act.finish()) == ("done", ())
    assert act.pods.deleted == ["b"]


@on_stage(pods=0)
async def test_a_pod_whose_end_no_node_confirms_is_not_awaited(stage: Stage) -> None:
    act = Act(stage, ending("a", lost="dark"), silent=for_ever("a"))
    assert outcome(await act.finish()) == ("unconfirmed", ("a",))
    assert act.taken < 25


@on_stage(pods=0)
async def test_without_the_lease_nothing_is_deleted_and_nothing_undone(stage: Stage) -> None:
    for names in (("a",), ("a", "b")):
        act = Act(stage, *map(ready, names), silent=for_ever(*names))
        with pytest.raises(Superseded):
            await act.convergence.finish(act.attempt, stage.record)
        assert (act.pods.deleted, stage.serving) == ([], ("3", 3))


# -- the undo


@on_stage(pods=0)
async def test_two_silent_pods_undo_the_promotion(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), ready("c"), silent={"a": 24.0, "c": 24.0})
    end = await act.finish()
    assert outcome(end) == ("failed", ("a", "c"))
    assert "not confirmed by a, c, so version 1 serves again" in str(end.attempt.reason)
    assert (stage.serving, stage.way_back) == (("1", 4), ["2"])
    current = stage.record.current
    assert current is not None
    assert (current.act, current.by) == ("undo", REQUEST)
    assert current.at.startswith("2026-01-01")
    assert stage.record.unwritten == (end.attempt,)
    assert (end.record.current, end.late) == (current, ())
    assert stage.world.registry.aliases == {"production": "1", "champion": "2"}
    after = [(name, epoch) for name, epoch, _ in act.pods.calls if epoch == 4]
    assert sorted(set(after)) == [("a", 4), ("b", 4), ("c", 4)]
    assert act.pods.deleted == []


@on_stage(pods=0)
async def test_an_undo_that_pods_do_not_follow_is_unconfirmed(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), ready("c"), silent=for_ever("a", "b"))
    act.pods.silent["b"] = 30.0
    end = await act.finish()
    assert outcome(end) == ("unconfirmed", ("a",))
    assert (end.record.epoch, stage.serving) == (4, ("1", 4))
    assert 50 <= act.taken < 55


@on_stage(pods=0)
async def test_the_alias_of_an_undo_may_be_late(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent={"a": 24.0, "b": 24.0})
    act.pods.on_call = lambda: setattr(stage.world.registry, "down_until", FOR_EVER)
    end = await act.finish()
    assert (outcome(end), end.late) == (("failed", ("a", "b")), ("alias",))


@pytest.mark.parametrize(("pods", "reserved", "epoch"), [(9, 3, 10), (0, 6, 7), (0, 3, 4)])
def test_the_epoch_of_an_undo_is_above_every_epoch_in_use(
    pods: int, reserved: int, epoch: int
) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        act = Act(stage, ready("a"), ready("b"), silent={"a": 24.0, "b": 24.0}, epochs={"a": pods})
        act.change(highest_reserved=reserved)
        await act.finish()
        assert stage.serving == ("1", epoch)

    play()


@on_stage(pods=0)
async def test_silent_pods_that_take_no_connections_undo_nothing(stage: Stage) -> None:
    pods = [unready("a"), unready("b"), PodRef("c", ready=True, lost="dark")]
    act = Act(stage, *pods, silent=for_ever("a", "b", "c"))
    assert outcome(await act.finish()) == ("unconfirmed", ("a", "b", "c"))
    assert (act.pods.deleted, stage.serving) == ([], ("3", 3))
    assert act.taken < 25


@pytest.mark.parametrize("kind", ["rollback", "undo"])
def test_only_a_promotion_is_undone(kind: str) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))
        act.change(current=entry_of("3", 3, act=kind))
        assert outcome(await act.finish()) == ("unconfirmed", ("a", "b"))
        assert (stage.serving, act.pods.deleted) == (("3", 3), [])

    play()


@on_stage(pods=0)
async def test_an_act_reported_in_the_meantime_is_not_undone(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))
    act.pods.on_call = lambda: act.change(unwritten=())
    end = await act.finish()
    assert outcome(end) == ("unconfirmed", ("a", "b"))
    assert (end.record, stage.serving) == (stage.record, ("3", 3))


@on_stage(pods=0)
async def test_a_promotion_that_another_act_replaced_is_not_undone(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))
    act.pods.on_call = act.overtake
    with pytest.raises(Superseded):
        await act.finish()
    assert stage.serving == ("2", 4)


@on_stage(pods=0)
async def test_an_undo_does_not_replace_what_another_act_has_just_written(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))

    def overtake() -> None:
        if stage.record.epoch == 3:
            act.overtake()

    act.pods.on_epoch = overtake
    with pytest.raises(Superseded):
        await act.finish()
    assert stage.serving == ("2", 4)


# -- the last look at the record


@on_stage(pods=0)
async def test_an_act_that_another_has_replaced_is_superseded(stage: Stage) -> None:
    act = Act(stage, ready("a"))
    act.pods.on_call = act.overtake
    with pytest.raises(Superseded):
        await act.finish()


@on_stage(pods=0)
async def test_an_act_whose_record_cannot_be_read_again_is_unconfirmed(stage: Stage) -> None:
    act = Act(stage, ready("a"))
    act.pods.on_call = lambda: setattr(stage.world.store, "api_down_until", FOR_EVER)
    end = await act.finish()
    assert outcome(end) == ("unconfirmed", ())
    assert "cannot be read again" in str(end.attempt.reason)
    assert 5 < act.taken < 25


@on_stage(pods=0)
async def test_a_record_that_can_be_read_again_later_ends_the_act_as_done(stage: Stage) -> None:
    act = Act(stage, ready("a"))
    act.pods.on_call = lambda: setattr(stage.world.store, "api_down_until", stage.world.clock + 4)
    assert outcome(await act.finish()) == ("done", ())


# -- a look without a change


@on_stage(pods=0)
async def test_a_look_confirms_and_changes_nothing(stage: Stage) -> None:
    act = Act(stage, ready("a"))
    record = stage.record
    end = await act.look()
    assert end == Ending(act.attempt, record, ())
    assert all(19 < seconds <= 20 for _, _, seconds in act.pods.calls)


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_a_look_names_the_silent_pods_and_leaves_them_alone(names: tuple[str, ...]) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        act = Act(stage, *map(ready, names), silent=for_ever(*names))
        stage.world.registry.down_until = FOR_EVER
        end = await act.look()
        assert (outcome(end), end.late) == (("unconfirmed", names), ("alias",))
        assert (act.pods.deleted, end.record) == ([], stage.record)
        assert stage.serving == ("3", 3)
        assert 20 <= act.taken < 25

    play()
