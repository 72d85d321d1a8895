"""What a later try of a request, or the next promoter, does with what an earlier one has left."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import Promote, commit, reservation
from fraudops.promotion.ports import UnknownWriteError
from fraudops.promotion.protocol import Promoter
from fraudops.promotion.serving_record import (
    EMPTY,
    REQUEST_LIMIT,
    ServingRecord,
    encode,
    keep_outcome,
    note_alias,
    reserve,
)
from tests.support.simulation.founding import entry_of, model_of
from tests.support.simulation.jobs import RETRY, Job
from tests.support.simulation.registry import digest_of
from tests.support.simulation.stage import Stage, on_stage
from tests.support.simulation.store import SimRollouts
from tests.support.simulation.world import Actor


def reserved(
    stage: Stage, request: str, strategy: Any = "broadcast", version: str = "3"
) -> ServingRecord:
    """Return the record as a promoter leaves it that dies before its commit."""
    change = Promote(model_of(version), strategy)
    epoch = stage.record.highest_epoch + 1
    return reserve(stage.record, reservation(change, epoch, request, "grace", "then"))


def committed(stage: Stage, request: str, **fields: Any) -> ServingRecord:
    """Return the record as a promoter leaves it that dies after its commit."""
    row = Attempt(request=request, requested_by="user", at="then", outcome="unconfirmed")
    record = commit(reserved(stage, request), row)
    assert record.current is not None
    stage.world.checks.commits.targets.add((record.epoch, record.current.digest))
    return msgspec.structs.replace(
        record, current=msgspec.structs.replace(record.current, **fields)
    )


MINE = Job("mine", version="3")


def was_asked(stage: Stage, request: str = "mine") -> bool:
    """Whether the gate of the request has decided."""
    return f"{request}/0" in stage.world.checks.decided


# -- a later try of the same request


@on_stage()
async def test_a_later_try_finishes_the_own_commit(stage: Stage) -> None:
    waiver = {"reason": "an emergency"}
    stage.write(committed(stage, "mine", strategy="rollout", waiver=waiver))
    result = await stage.act(MINE)
    assert (result.outcome, result.epoch, was_asked(stage)) == ("done", 3, False)
    assert result.reason is None
    row = stage.row("mine")
    assert (row.version, row.digest, row.from_version) == ("3", digest_of("3"), "1")
    assert (row.epoch, row.strategy, row.waiver_reason) == (3, "rollout", "an emergency")
    assert all(pod.state.epoch == 3 for pod in stage.world.cluster.pods)
    assert (stage.record.unwritten, stage.record.alias_epoch) == ((), 3)


@on_stage(pods=0)
async def test_a_later_try_finishes_the_first_promotion_of_all(stage: Stage) -> None:
    stage.world.store.start_from(encode(EMPTY))
    stage.write(committed(stage, "mine"))
    result = await stage.act(MINE)
    assert (result.outcome, result.epoch) == ("done", 1)
    assert stage.row("mine").from_version is None


@on_stage()
async def test_a_later_try_reports_the_undo_of_an_earlier_one(stage: Stage) -> None:
    stage.write(committed(stage, "mine", act="undo", undo=True))
    result = await stage.act(MINE)
    assert (result.outcome, result.epoch, was_asked(stage)) == ("failed", 3, False)
    assert "went back to version 3" in str(result.reason)
    assert stage.row("mine").outcome == "failed"
    assert all(pod.state.epoch == 3 for pod in stage.world.cluster.pods)


@on_stage()
async def test_a_later_try_reports_why_an_earlier_one_has_undone(stage: Stage) -> None:
    kept = Attempt(
        request="mine",
        requested_by="ada",
        at="then",
        epoch=3,
        outcome="failed",
        reason="not confirmed by pod-1",
        finished_at="then",
    )
    stage.write(keep_outcome(committed(stage, "mine", act="undo", undo=True), kept))
    result = await stage.act(MINE)
    assert (result.outcome, result.reason) == ("failed", "not confirmed by pod-1")


@on_stage()
async def test_a_later_try_ends_when_another_request_has_committed_since(stage: Stage) -> None:
    stage.write(reserved(stage, "mine", version="2"))
    stage.write(committed(stage, "another"))
    result = await stage.act(MINE)
    assert (result.outcome, was_asked(stage), stage.serving) == ("overtaken", False, ("3", 4))
    row = stage.row("mine")
    assert (row.outcome, row.epoch) == ("overtaken", 3)
    assert row.reason == result.reason == "version 3 was promoted since (epoch 4)"


@pytest.mark.parametrize("strategy", ["broadcast", "rollout"])
def test_a_later_try_begins_again_when_nothing_was_committed(strategy: Any) -> None:
    async def play(stage: Stage) -> None:
        left = reserved(stage, "mine", strategy)
        assert left.reserved is not None
        stage.world.checks.reserved_targets.append(left.reserved)
        stage.write(left)
        if strategy == "rollout":
            stage.world.store.template = left.reserved.target
        result = await stage.act(Job("mine", version="3", strategy=strategy))
        # Epoch 3 was that of the earlier try.
        assert (result.outcome, result.epoch, was_asked(stage)) == ("done", 4, True)
        assert stage.record.first_reservation("mine") == 3
        assert (stage.row("mine").outcome, stage.row("mine").epoch) == ("done", 4)
        template = stage.world.store.template
        assert (template and template.epoch) == (4 if strategy == "rollout" else None)

    on_stage(pods=2)(play)()


@on_stage(pods=0)
async def test_a_later_try_begins_the_first_promotion_of_all_again(stage: Stage) -> None:
    stage.world.store.start_from(encode(EMPTY))
    stage.write(reserved(stage, "mine"))
    result = await stage.act(MINE)
    assert (result.outcome, stage.serving, was_asked(stage)) == ("done", ("3", 2), True)


@on_stage()
async def test_a_later_try_that_finishes_a_commit_may_be_overtaken(stage: Stage) -> None:
    stage.write(committed(stage, "mine"))
    stage.silence("pod-1")
    finishing = stage.world.spawn(stage.act(MINE))
    await stage.wait(5)
    later = entry_of("2", 4)
    stage.world.checks.commits.targets.add((4, later.digest))
    stage.change(current=later)
    result = await finishing
    assert (result.outcome, result.epoch, result.version) == ("overtaken", 4, "2")
    assert (stage.row("mine").outcome, stage.row("mine").epoch) == ("overtaken", 3)


# -- what another promoter has left


@pytest.mark.parametrize("strategy", ["broadcast", "rollout"])
def test_the_next_holder_takes_back_what_a_dead_promoter_has_reserved(strategy: Any) -> None:
    async def play(stage: Stage) -> None:
        left = reserved(stage, "dead", strategy)
        assert left.reserved is not None
        stage.write(left)
        if strategy == "rollout":
            stage.world.store.template = left.reserved.target
        assert (await stage.promote("4")).outcome == "refused"
        assert (stage.record.reserved, stage.world.store.template) == (None, None)
        # The record keeps the row of the dead promoter until the reconciler writes it.
        (row,) = stage.record.unwritten
        assert (row.request, row.outcome, row.finished_at) == ("dead", "refused", None)
        assert (stage.record.highest_epoch, stage.serving) == (3, ("1", 2))

    on_stage(pods=2)(play)()


@on_stage()
async def test_a_dead_promoters_broadcast_leaves_the_annotation_of_a_rollout(stage: Stage) -> None:
    left = reserved(stage, "dead")
    assert left.reserved is not None
    stage.write(left)
    stage.world.store.template = left.reserved.target
    assert (await stage.promote("2")).outcome == "done"
    assert stage.world.store.template == left.reserved.target


class RacedRollouts(SimRollouts):
    """Another process writes the record while this one removes the annotation."""

    async def undo(self, epoch: int) -> None:
        assert epoch == 3
        store = self.world.store
        store.overwrite(note_alias(store.record, "moved by hand"))
        await super().undo(epoch)


@on_stage()
async def test_an_act_ends_with_an_error_when_another_one_writes_while_it_takes_back(
    stage: Stage,
) -> None:
    stage.write(reserved(stage, "dead", "rollout"))
    actor = Actor("mine/0", MINE)
    raced = RacedRollouts(stage.world, actor)
    stage.runner.promoter = lambda ports: Promoter(replace(ports, rollouts=raced))
    assert await stage.runner.attempt(MINE, actor) == RETRY
    assert (was_asked(stage), stage.world.store.rows) == (False, {})
    assert stage.record.reserved is not None


class UnansweredRollouts(SimRollouts):
    """The first removal of an annotation is not answered."""

    asked = 0

    async def undo(self, epoch: int) -> None:
        self.asked += 1
        if self.asked == 1:
            raise UnknownWriteError("the API does not answer")
        await super().undo(epoch)


@on_stage(pods=2)
async def test_the_annotation_of_an_own_rollout_is_removed_when_the_next_try_is_refused(
    stage: Stage,
) -> None:
    left = reserved(stage, "mine", "rollout")
    assert left.reserved is not None
    stage.write(left)
    stage.world.store.template = left.reserved.target
    job = Job("mine", version="4", strategy="rollout")
    actor = Actor("mine/0", job)
    rollouts = UnansweredRollouts(stage.world, actor)
    stage.runner.promoter = lambda ports: Promoter(replace(ports, rollouts=rollouts))
    assert (await stage.act(job, actor)).outcome == "refused"
    assert (stage.record.reserved, stage.world.store.template) == (None, None)
    assert rollouts.asked == 2


# -- tries that come late


@on_stage()
async def test_a_late_try_of_a_rollback_does_not_go_back_twice(stage: Stage) -> None:
    back = Job("back", act="rollback")
    assert (await stage.act(back)).outcome == "done"
    stage.pod("pod-1").refuses = frozenset({digest_of("3")})
    for _ in range(REQUEST_LIMIT + 1):
        assert (await stage.promote("3")).outcome == "refused"
    assert (await stage.act(back)).outcome == "done"
    assert stage.serving == ("2", 3)


@on_stage()
async def test_a_late_try_of_a_replaced_promotion_is_overtaken(stage: Stage) -> None:
    job = Job("mine", version="3")
    assert (await stage.act(job)).outcome == "done"
    assert (await stage.promote("2")).outcome == "done"
    stage.pod("pod-1").refuses = frozenset({digest_of("1")})
    for _ in range(REQUEST_LIMIT + 1):
        assert (await stage.promote("1")).outcome == "refused"
    assert (await stage.act(job)).outcome == "overtaken"
    assert len(stage.record.requests) == REQUEST_LIMIT + 2
