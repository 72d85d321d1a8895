"""After a commit: pods that do not follow are deleted, awaited, or the act is undone."""

from dataclasses import replace

import pytest

from fraudops.errors import FraudopsError
from fraudops.promotion.convergence import Convergence, Ending
from fraudops.promotion.mirror import AliasMirror
from fraudops.promotion.patience import Superseded
from fraudops.promotion.ports import PodRef, UnknownWriteError
from tests.support.committed_act import (
    DOWN,
    REFUSED,
    SILENT,
    Act,
    ending,
    for_ever,
    outcome,
    ready,
    unready,
)
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage


@on_stage(pods=0)
async def test_an_act_is_done_when_every_running_pod_follows(stage: Stage) -> None:
    act = Act(stage, ready("a"), unready("b"), ending("c"), PodRef("d", False, running=False))
    record = stage.record
    end = await act.finish()
    assert end == Ending(act.attempt, record, ())
    assert [(name, epoch) for name, epoch, _ in act.pods.calls] == [("a", 3), ("b", 3), ("c", 3)]
    assert all(19 < seconds <= 20 for _, _, seconds in act.pods.calls)
    assert stage.world.registry.aliases == {"production": "3", "champion": "1"}
    # A pod whose start is not shown yet gets the time for one read.
    assert 3 <= act.taken < 5


@on_stage(pods=0)
async def test_a_pod_whose_start_is_shown_late_must_follow_too(stage: Stage) -> None:
    late = PodRef("late", ready=False, running=False)
    act = Act(stage, ready("a"), late)
    act.pods.on_call = lambda: setattr(act.pods, "listed", [ready("a"), ready("late")])
    assert outcome(await act.finish()) == ("done", ())
    assert (act.called("a"), act.called("late")) == (1, 1)


class OvertakenMirror(AliasMirror):
    """Another act commits just after the aliases were written."""

    act: Act

    async def sync(self, epoch: int) -> tuple[str, ...]:
        late = await super().sync(epoch)
        self.act.overtake()
        return late


@on_stage(pods=0)
async def test_an_act_that_is_overtaken_after_its_aliases_says_so(stage: Stage) -> None:
    act = Act(stage, ready("a"))
    mirror = OvertakenMirror(act.ports)
    mirror.act = act
    act.convergence = Convergence(act.ports, mirror)
    with pytest.raises(Superseded):
        await act.finish()


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
    act = Act(stage, wanted=0)
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
    with pytest.raises(Superseded):
        await act.look()
    assert act.taken < 2


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


@pytest.mark.parametrize("error", [SILENT, REFUSED, DOWN, UnknownWriteError("no answer")])
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
        # No other act has overtaken this one, so its next try finishes it.
        assert outcome(await act.convergence.finish(act.attempt, stage.record)) == (
            "unconfirmed",
            names,
        )
        assert (act.pods.deleted, stage.serving) == ([], ("3", 3))


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


@on_stage(pods=0)
async def test_a_pod_that_follows_a_moment_later_is_called_again_soon(stage: Stage) -> None:
    act = Act(stage, ready("a"), error=REFUSED)
    act.pods.on_call = lambda: act.pods.silent.update(a=stage.world.clock + 0.1)
    assert outcome(await act.finish()) == ("done", ())
    assert act.taken < 5 * act.ports.deadlines.pause


@on_stage(pods=0)
async def test_a_wait_for_a_starting_pod_alone_names_no_pod_that_is_behind(stage: Stage) -> None:
    starting = PodRef("b", ready=False, running=False)
    act = Act(stage, ready("a"), starting)
    deadlines = replace(act.ports.deadlines, starting=15.0)
    act.convergence = Convergence(replace(act.ports, deadlines=deadlines))
    assert outcome(await act.finish()) == ("done", ())
    assert not [line for line in act.said if line.startswith("waiting for")]
