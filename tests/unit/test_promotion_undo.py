"""The undo of a promotion whose pods do not follow."""

from itertools import pairwise

import pytest

from fraudops.promotion.changes import Promote, reservation
from fraudops.promotion.patience import Superseded
from fraudops.promotion.ports import PodRef
from tests.support.committed_act import (
    DOWN,
    REFUSED,
    REQUEST,
    Act,
    for_ever,
    outcome,
    ready,
    unready,
)
from tests.support.simulation.founding import entry_of, model_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage


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
    assert "so version 1 serves again; not confirmed by a" in str(end.attempt.reason)
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
    assert (end.record.unwritten, stage.serving) == ((), ("3", 3))


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


@on_stage(pods=0)
async def test_an_undo_is_decided_again_when_a_note_in_the_record_has_changed(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent={"a": 24.0, "b": 24.0})
    act.at_next_epoch(lambda: act.change(alias_note="moved"))
    assert outcome(await act.finish()) == ("failed", ("a", "b"))
    assert stage.serving == ("1", 4)


@on_stage(pods=0)
async def test_an_undo_ends_when_the_record_changes_before_each_write(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))
    notes = iter(range(1000))
    act.pods.on_epoch = lambda: act.change(alias_note=f"note {next(notes)}")
    assert outcome(await act.finish()) == ("unconfirmed", ("a", "b"))
    assert stage.serving == ("3", 3)


@on_stage(pods=0)
async def test_a_pod_that_refuses_at_once_is_not_called_without_pauses(stage: Stage) -> None:
    act = Act(stage, unready("a"), silent=for_ever("a"), error=REFUSED)
    assert outcome(await act.finish()) == ("unconfirmed", ("a",))
    assert act.called("a") < 40
    assert sum("has not followed yet" in text for text in act.said) == 1


@on_stage(pods=0)
async def test_a_promoter_that_loses_the_lock_between_two_tries_undoes_nothing(
    stage: Stage,
) -> None:
    act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))

    def lose() -> None:
        act.change(alias_note="moved")
        act.ports.lock.actor.lost_lock = True  # type: ignore[attr-defined]

    act.at_next_epoch(lose)
    assert outcome(await act.finish()) == ("unconfirmed", ("a", "b"))
    assert stage.serving == ("3", 3)


@on_stage(pods=0)
async def test_what_another_act_has_reserved_is_not_undone(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))
    reserved = reservation(Promote(model_of("2"), "broadcast"), 4, "another", "grace", "then")
    act.at_next_epoch(lambda: act.change(reserved=reserved))
    assert outcome(await act.finish()) == ("unconfirmed", ("a", "b"))
    assert (stage.serving, stage.record.reserved) == (("3", 3), reserved)


@on_stage(pods=0)
async def test_an_undo_waits_for_the_list_of_pods(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent={"a": 24.0, "b": 24.0})

    def fail_next() -> None:
        act.change(alias_note="moved")
        act.pods.lists += [DOWN, DOWN]

    act.at_next_epoch(fail_next)
    assert outcome(await act.finish()) == ("failed", ("a", "b"))
    assert stage.serving == ("1", 4)


@on_stage(pods=0)
async def test_an_undo_pauses_between_two_decisions(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))
    moments: list[float] = []

    def note() -> None:
        moments.append(stage.world.clock)
        act.change(alias_note=f"note {len(moments)}")

    act.pods.on_epoch = note
    await act.finish()
    decisions = sorted(set(moments))
    assert len(decisions) > 2
    assert min(after - before for before, after in pairwise(decisions)) >= act.ports.deadlines.pause
