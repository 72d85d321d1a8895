"""How an act ends when another try of its request, or another act, has written the record."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.changes import Promote, reservation
from fraudops.promotion.serving_record import (
    EMPTY,
    ServingRecord,
    encode,
    note_alias,
    release,
    reserve,
)
from tests.support.promoter_try import LosesTheCommit, Try
from tests.support.simulation.founding import entry_of, model_of
from tests.support.simulation.jobs import Job
from tests.support.simulation.registry import digest_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage
from tests.support.simulation.store import SimRecords, SimRollouts
from tests.support.simulation.world import Actor

MINE = Job("mine", version="3")


def serve(stage: Stage, version: str, epoch: int, **fields: Any) -> None:
    """Let another process commit this version."""
    entry = entry_of(version, epoch, **fields)
    stage.world.checks.commits.targets.add((epoch, entry.digest))
    stage.write(msgspec.structs.replace(release(stage.record), current=entry))


def refusing(stage: Stage, before: Callable[[], None]) -> Try:
    def refuse() -> None:
        before()
        raise RefusedError("the gate refuses")

    return Try(stage, MINE, refuse)


# -- another try of the same request


@on_stage()
async def test_a_refusal_does_not_report_what_another_try_has_committed(stage: Stage) -> None:
    mine = refusing(stage, lambda: serve(stage, "3", 3, by="mine"))
    with pytest.raises(StoreDownError, match="another try of this request has gone on"):
        await mine.run()
    assert "mine" not in stage.world.store.rows


@on_stage()
async def test_a_refusal_does_not_report_what_another_try_has_reserved(stage: Stage) -> None:
    wanted = reservation(Promote(model_of("3"), "broadcast"), 4, "mine", "user", "then")
    mine = refusing(stage, lambda: stage.write(reserve(stage.record, wanted)))
    with pytest.raises(StoreDownError, match="another try of this request has gone on"):
        await mine.run()
    assert "mine" not in stage.world.store.rows


@on_stage()
async def test_a_pods_refusal_does_not_report_the_commit_of_the_same_epoch(stage: Stage) -> None:
    stage.pod("pod-1").refuses = frozenset({digest_of("3")})
    act = stage.world.spawn(Try(stage, MINE).run())
    while stage.record.reserved is None:
        await stage.wait(0.01)
    serve(stage, "3", 3, by="mine")
    with pytest.raises(StoreDownError, match="another try of this request has gone on"):
        await act


@on_stage()
async def test_an_overtaken_try_does_not_report_for_the_try_that_has_gone_on(stage: Stage) -> None:
    act = stage.world.spawn(Try(stage, MINE).run())
    while stage.record.epoch == 2:
        await stage.wait(0.01)
    serve(stage, "3", 5, by="mine")
    with pytest.raises(StoreDownError, match="another try of this request has gone on"):
        await act


@on_stage()
async def test_without_record_and_lock_the_next_try_says_how_the_act_ended(stage: Stage) -> None:
    def lose() -> None:
        mine.actor.lost_lock = True
        stage.world.store.api_down_until = FOR_EVER

    mine = refusing(stage, lose)
    with pytest.raises(StoreDownError):
        await mine.run()


# -- another act


class MovesOn(SimRecords):
    """Records in which another act commits after the first read."""

    reads = 0

    async def read(self) -> tuple[ServingRecord, Any]:
        found = await super().read()
        self.reads += 1
        if self.reads == 1:
            entry = entry_of("2", 5)
            self.world.checks.commits.targets.add((5, entry.digest))
            self.world.store.overwrite(msgspec.structs.replace(found[0], current=entry))
        return found


@on_stage()
async def test_an_overtaken_try_names_the_act_that_it_has_seen(stage: Stage) -> None:
    wanted = reservation(Promote(model_of("3"), "broadcast"), 3, "mine", "user", "then")
    stage.write(release(reserve(stage.record, wanted)))
    serve(stage, "1", 4)
    records = MovesOn(stage.world, Actor("mine/0", MINE))
    result = await Try(stage, MINE, records=records).run()
    assert (result.outcome, result.epoch) == ("overtaken", 5)
    assert result.reason == "version 1 was promoted since (epoch 4)"


@on_stage()
async def test_the_undo_of_another_request_is_not_that_of_a_refused_act(stage: Stage) -> None:
    serve(stage, "1", 4, act="undo", undo=True, by="another")
    result = await refusing(stage, lambda: None).run()
    assert (result.outcome, result.undone) == ("refused", False)


@on_stage()
async def test_a_commit_without_an_answer_may_be_overtaken(stage: Stage) -> None:
    stage.silence("pod-1")
    records = LosesTheCommit(stage.world, Actor("mine/0", MINE))
    stage.pod("pod-1").silent_until = 0.0
    act = stage.world.spawn(Try(stage, MINE, records=records).run())
    while stage.record.epoch == 2:
        await stage.wait(0.01)
    stage.silence("pod-1", "pod-2")
    await stage.wait(5.0)
    serve(stage, "2", 4)
    assert (await act).outcome == "overtaken"
    assert (stage.row("mine").outcome, stage.row("mine").version) == ("overtaken", "3")


@on_stage(pods=0)
async def test_the_first_promotion_begins_again_when_a_note_has_changed(stage: Stage) -> None:
    stage.world.store.start_from(encode(EMPTY))

    class Notes(SimRecords):
        async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
            if record.current:
                stage.write(note_alias(stage.record, "a note"))
            return await super().compare_and_set(record, token)

    records = Notes(stage.world, Actor("mine/0", MINE))
    with pytest.raises(StoreDownError, match="changed before the commit: try again"):
        await Try(stage, MINE, records=records).run()
    assert stage.record.current is None


# -- a refused rollout


def test_a_refused_rollout_keeps_its_reason_before_its_pods_are_replaced() -> None:
    @on_stage(pods=2)
    async def play(stage: Stage) -> None:
        stage.world.cluster.schedules_from = 200.0
        act = stage.world.spawn(stage.promote("7", "rollout"))
        while stage.record.reserved is None:
            await stage.wait(0.5)
        while stage.record.reserved is not None:
            await stage.wait(0.01)
        (kept,) = stage.record.unwritten
        assert kept.outcome == "refused"
        assert "new pods are ready with version 7" in str(kept.reason)
        await act

    play()


def test_a_rollout_that_cannot_be_taken_back_says_that_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @on_stage(pods=2)
    async def play(stage: Stage) -> None:
        async def fail(rollouts: SimRollouts, epoch: int) -> None:
            raise StoreDownError("the API is down")

        monkeypatch.setattr(SimRollouts, "undo", fail)
        stage.world.cluster.schedules_from = 200.0
        result = await stage.promote("7", "rollout")
        assert "until the reconciler removes the annotation" in str(result.reason)

    play()
