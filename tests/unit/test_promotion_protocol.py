"""Steps of a promoter: what users, the next promoter and the pods see of each."""

from typing import Any

import msgspec
import pytest

from fraudops.errors import StoreDownError
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.ports import UnknownWriteError
from fraudops.promotion.request import PromotionResult
from fraudops.promotion.serving_record import (
    EMPTY,
    NewerFormatError,
    ServingRecord,
    ServingTarget,
    encode,
    note_alias,
    release,
)
from tests.support.promoter_try import LosesTheCommit, Try
from tests.support.signing import SIGNERS
from tests.support.simulation.founding import entry_of
from tests.support.simulation.jobs import Job
from tests.support.simulation.registry import digest_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage
from tests.support.simulation.store import SimRecords
from tests.support.simulation.world import Actor


def touch(stage: Stage) -> None:
    stage.write(note_alias(stage.record, f"note {stage.world.store.token}"))


MINE = Job("mine", version="3")


# -- the row and the result


@on_stage()
async def test_a_promotion_is_reported_in_the_result_in_the_record_and_in_its_row(
    stage: Stage,
) -> None:
    mine = Try(stage, Job("mine", version="3", strategy="rollout", force=True))
    result = await mine.run()
    assert result == PromotionResult("promote", "done", 3, "3")
    row = stage.row("mine")
    assert row == Attempt(
        request="mine",
        requested_by="user",
        actor="user@bank",
        authenticated=True,
        approver="second user",
        at=row.at,
        act="promote",
        strategy="rollout",
        version="3",
        digest=digest_of("3"),
        from_version="1",
        epoch=3,
        outcome="done",
        waiver_reason="the user insists",
        finished_at=row.finished_at,
        signer=SIGNERS.verdict.public.id,
    )
    assert row.finished_at is not None
    assert row.at < row.finished_at
    entry = stage.record.current
    assert entry is not None
    assert (entry.by, entry.requested_by, entry.strategy) == ("mine", "user", "rollout")
    assert row.at < entry.at < row.finished_at
    assert stage.record.first_reservation("mine") == 3
    assert (stage.record.unwritten, stage.record.alias_epoch) == ((), 3)
    assert all(pod.state.epoch == 3 for pod in stage.world.cluster.pods if not pod.gone)


@on_stage()
async def test_a_refusal_of_the_gate_keeps_what_the_user_has_asked_for(stage: Stage) -> None:
    before = stage.record
    result = await Try(stage, Job("mine", version="4", strategy="rollout")).run()
    row = stage.row("mine")
    assert (result.act, result.outcome) == ("promote", "refused")
    assert (result.epoch, result.version) == (2, "1")
    assert "did not pass" in str(result.reason)
    assert row == Attempt(
        request="mine",
        requested_by="user",
        actor="user@bank",
        authenticated=True,
        approver="second user",
        at=row.at,
        strategy="rollout",
        version="4",
        from_version="1",
        outcome="refused",
        reason=result.reason,
        finished_at=row.finished_at,
    )
    assert stage.record == before


@on_stage(pods=0)
async def test_the_first_promotion_has_epoch_1_and_replaces_no_version(stage: Stage) -> None:
    stage.world.store.start_from(encode(EMPTY))
    result = await stage.act(Job("mine", version="3", if_epoch=0))
    assert (result.outcome, result.epoch, result.version) == ("done", 1, "3")
    assert (stage.row("mine").from_version, stage.record.previous) == (None, None)
    assert stage.row("mine").waiver_reason is None


@on_stage(pods=0)
async def test_without_a_version_a_refusal_names_none(stage: Stage) -> None:
    stage.world.store.start_from(encode(EMPTY))
    result = await stage.act(Job("mine", version="3", if_epoch=1))
    assert (result.outcome, result.epoch, result.version) == ("refused", 0, None)
    assert "no version serves" in str(result.reason)


@pytest.mark.parametrize("if_epoch", [0, 1, 3])
def test_an_act_is_refused_at_another_epoch_than_its_user_names(if_epoch: int) -> None:
    async def play(stage: Stage) -> None:
        mine = Try(stage, Job("mine", version="3", if_epoch=if_epoch))
        result = await mine.run()
        assert (result.outcome, stage.serving, mine.asked) == ("refused", ("1", 2), 0)
        assert "at epoch 2, where version 1 serves" in str(result.reason)

    on_stage()(play)()


@on_stage()
async def test_an_act_works_at_the_epoch_that_its_user_names(stage: Stage) -> None:
    assert (await stage.act(Job("mine", version="3", if_epoch=2))).outcome == "done"


@on_stage()
async def test_what_is_late_is_named_with_the_row_last(stage: Stage) -> None:
    stage.world.store.database_down_until = FOR_EVER
    for pod in stage.world.cluster.pods:
        pod.cache.add(digest_of("3"))
    mine = Try(stage, MINE, then=lambda: setattr(stage.world.registry, "down_until", FOR_EVER))
    result = await mine.run()
    assert (result.outcome, result.late) == ("done", ("alias", "row"))
    assert [row.outcome for row in stage.record.unwritten] == ["done"]


# -- the lock and the record's format


@on_stage()
async def test_an_act_waits_until_the_other_one_has_released_the_lock(stage: Stage) -> None:
    stage.pod("pod-1").slow = 5.0
    first = stage.world.spawn(Try(stage, Job("first", version="3")).run())
    await stage.wait(1)
    second = await Try(stage, Job("second", version="2")).run()
    assert first.done()
    assert ((await first).outcome, second.outcome, stage.serving) == ("done", "done", ("2", 4))
    assert stage.world.store.lease.holder is None


@on_stage()
async def test_a_record_of_a_newer_format_is_neither_decided_nor_changed(stage: Stage) -> None:
    stage.world.store.start_from(encode(stage.record).replace(b'"format":2', b'"format":3'))
    mine = Try(stage, MINE)
    with pytest.raises(NewerFormatError):
        await mine.run()
    assert (mine.asked, stage.world.store.token, stage.world.store.rows) == (0, 0, {})


# -- the reservation


@pytest.mark.parametrize("seen_by", ["a pod", "the annotation", "an earlier reservation"])
def test_the_epoch_is_above_every_one_in_use(seen_by: str) -> None:
    async def play(stage: Stage) -> None:
        if seen_by == "a pod":
            pod = stage.pod("pod-2")
            stage.world.checks.commits.targets.add((9, digest_of("1")))
            pod.state = pod.state.serving(ServingTarget(9, "1", digest_of("1")), "cache")
        elif seen_by == "the annotation":
            stage.world.store.template = ServingTarget(9, "1", digest_of("1"))
        else:
            stage.change(highest_reserved=9)
        result = await Try(stage, MINE).run()
        assert (result.outcome, result.epoch) == ("done", 10)

    on_stage()(play)()


@on_stage()
async def test_an_epoch_that_someone_wrote_into_the_annotation_by_hand_does_not_count(
    stage: Stage,
) -> None:
    stage.world.store.template = ServingTarget(999_999_999_999_999, "1", digest_of("1"))
    result = await Try(stage, MINE).run()
    assert (result.outcome, result.epoch) == ("done", 3)


@on_stage()
async def test_while_pods_prepare_the_row_says_started(stage: Stage) -> None:
    stage.pod("pod-1").slow = 5.0
    act = stage.world.spawn(Try(stage, MINE).run())
    await stage.wait(2)
    row = stage.row("mine")
    assert (row.outcome, row.version, row.digest) == ("started", "3", digest_of("3"))
    assert (row.from_version, row.finished_at, stage.serving) == ("1", None, ("1", 2))
    assert stage.record.reserved is not None
    assert stage.record.reserved.target == ServingTarget(3, "3", digest_of("3"))
    await act


@on_stage()
async def test_an_act_decides_again_when_the_record_has_changed(stage: Stage) -> None:
    mine = Try(stage, MINE, then=lambda: mine.asked == 1 and touch(stage))
    result = await mine.run()
    assert (result.outcome, mine.asked, stage.serving) == ("done", 2, ("3", 3))


@on_stage()
async def test_an_act_ends_when_the_record_changes_before_each_reservation(stage: Stage) -> None:
    mine = Try(stage, MINE, then=lambda: touch(stage))
    # No other act has committed, so the next try begins again.
    with pytest.raises(StoreDownError, match="changes too often: try again"):
        await mine.run()
    assert mine.asked == 10
    assert (stage.record.reserved, stage.row("mine").outcome) == (None, "refused")


@on_stage()
async def test_an_act_that_has_lost_the_lock_does_not_decide_again(stage: Stage) -> None:
    def lose() -> None:
        touch(stage)
        mine.actor.lock_until = float("-inf")

    mine = Try(stage, MINE, then=lose)
    with pytest.raises(StoreDownError, match="has taken the lock: try again"):
        await mine.run()
    assert (mine.asked, stage.record.reserved) == (1, None)


@on_stage()
async def test_a_store_that_is_down_before_the_reservation_is_an_error_with_a_row(
    stage: Stage,
) -> None:
    def fail() -> None:
        stage.world.store.api_down_until = stage.world.clock + 30

    with pytest.raises(StoreDownError, match="the Kubernetes API does not answer"):
        await Try(stage, MINE, then=fail).run()
    row = stage.row("mine")
    assert (row.outcome, row.version) == ("refused", "3")
    assert "the Kubernetes API does not answer" in str(row.reason)
    assert row.finished_at is not None


# -- the commit


@on_stage()
async def test_a_pods_refusal_ends_the_act_and_leaves_no_trace(stage: Stage) -> None:
    stage.pod("pod-1").refuses = frozenset({digest_of("3")})
    stage.pod("pod-1").slow = 3.0
    before = stage.record
    result = await Try(stage, MINE).run()
    assert (result.outcome, result.epoch, result.version) == ("refused", 2, "1")
    assert "pod-1" in str(result.reason)
    row = stage.row("mine")
    assert (row.outcome, row.epoch, row.reason) == ("refused", 3, result.reason)
    record = stage.record
    assert (record.reserved, record.current, record.stack) == (None, before.current, before.stack)
    assert (record.highest_epoch, record.unwritten) == (3, ())
    assert all(pod.prepared == {} for pod in stage.world.cluster.pods)


@on_stage(pods=2)
async def test_a_rollout_without_new_pods_is_taken_back(stage: Stage) -> None:
    stage.world.cluster.schedules_from = FOR_EVER
    result = await Try(stage, Job("mine", version="3", strategy="rollout")).run()
    assert (result.outcome, stage.serving) == ("refused", ("1", 2))
    assert (stage.world.store.template, stage.record.reserved) == (None, None)


@on_stage()
async def test_on_one_machine_a_rollout_replaces_the_model_inside_the_pods(stage: Stage) -> None:
    names = {pod.name for pod in stage.world.cluster.pods}
    job = Job("mine", version="7", strategy="rollout")
    result = await Try(stage, job, rollouts=None).run()
    assert (result.outcome, stage.serving) == ("done", ("7", 3))
    assert {pod.name for pod in stage.world.cluster.pods} == names
    assert stage.world.store.template is None


async def reserved_by(stage: Stage, strategy: Any) -> Any:
    """Start an act and return its task when it has reserved. Its pods need some seconds."""
    stage.pod("pod-1").slow = 5.0
    act = stage.world.spawn(Try(stage, Job("mine", version="3", strategy=strategy)).run())
    while not stage.record.reserved:
        await stage.wait(0.2)
    return act


def left_no_trace(stage: Stage) -> bool:
    pods = [pod for pod in stage.world.cluster.pods if not pod.gone]
    return stage.world.store.template is None and not any(pod.prepared for pod in pods)


@on_stage()
async def test_an_act_whose_reservation_was_taken_back_is_tried_again(stage: Stage) -> None:
    act = await reserved_by(stage, "broadcast")
    stage.write(release(stage.record))
    with pytest.raises(StoreDownError, match="changed before the commit: try again"):
        await act
    assert (stage.row("mine").outcome, stage.serving) == ("refused", ("1", 2))
    assert left_no_trace(stage)


@on_stage()
async def test_an_act_whose_record_was_written_by_another_one_commits_nothing(stage: Stage) -> None:
    act = await reserved_by(stage, "broadcast")
    later = entry_of("2", 4)
    stage.world.checks.commits.targets.add((4, later.digest))
    stage.write(msgspec.structs.replace(release(stage.record), current=later))
    result = await act
    assert (result.outcome, result.epoch, stage.serving) == ("overtaken", 4, ("2", 4))
    assert (stage.row("mine").outcome, stage.row("mine").epoch) == ("overtaken", 3)
    assert result.reason


@pytest.mark.parametrize("strategy", ["broadcast", "rollout"])
def test_an_act_is_tried_again_when_only_a_note_in_the_record_has_changed(strategy: Any) -> None:
    async def play(stage: Stage) -> None:
        act = await reserved_by(stage, strategy)
        touch(stage)
        with pytest.raises(StoreDownError, match="changed before the commit: try again"):
            await act
        assert (stage.row("mine").outcome, stage.serving) == ("refused", ("1", 2))
        assert left_no_trace(stage)

    on_stage()(play)()


@on_stage()
async def test_a_commit_that_is_not_answered_says_that_it_may_have_happened(stage: Stage) -> None:
    act = await reserved_by(stage, "broadcast")

    def unanswered(*_: Any) -> None:
        raise UnknownWriteError("the store does not answer")

    stage.world.store.write_record = unanswered
    with pytest.raises(UnknownWriteError, match="whether epoch 3 is committed is unknown"):
        await act


@on_stage()
async def test_a_commit_whose_answer_is_lost_is_found_although_a_note_has_changed(
    stage: Stage,
) -> None:
    records = LosesTheCommit(stage.world, Actor("mine/0", MINE))
    result = await Try(stage, MINE, records=records).run()
    assert (result.outcome, stage.serving, stage.row("mine").outcome) == ("done", ("3", 3), "done")


@on_stage()
async def test_a_reservation_that_is_not_answered_leaves_a_row(stage: Stage) -> None:
    class NoWrites(SimRecords):
        async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
            await self.world.step(self.actor)
            raise UnknownWriteError("the store does not answer")

    mine = Try(stage, MINE, records=NoWrites(stage.world, Actor("mine/0", MINE)))
    with pytest.raises(UnknownWriteError):
        await mine.run()
    assert stage.row("mine").outcome == "refused"


@on_stage()
async def test_a_commit_keeps_a_provisional_row_until_its_pods_have_followed(stage: Stage) -> None:
    act = stage.world.spawn(Try(stage, MINE).run())
    while stage.record.reserved is None:
        await stage.wait(0.05)
    while stage.record.epoch == 2:
        await stage.wait(0.01)
    (row,) = stage.record.unwritten
    assert (row.request, row.outcome, row.finished_at) == ("mine", "unconfirmed", None)
    assert (row.version, row.digest, row.epoch) == ("3", digest_of("3"), 3)
    assert row.reason
    assert (await act).outcome == "done"


@on_stage()
async def test_a_later_act_after_the_commit_is_named(stage: Stage) -> None:
    mine = Try(stage, MINE)
    act = stage.world.spawn(mine.run())
    while stage.record.epoch == 2:
        await stage.wait(0.05)
    later = entry_of("2", 4)
    stage.world.checks.commits.targets.add((4, later.digest))
    stage.change(current=later)
    result = await act
    assert (result.outcome, result.epoch, result.version) == ("overtaken", 4, "2")
    assert stage.row("mine").outcome == "overtaken"
    assert result.reason


@on_stage()
async def test_a_refusal_counts_when_the_reservation_cannot_be_removed(stage: Stage) -> None:
    stage.silence("pod-1")
    act = stage.world.spawn(Try(stage, MINE).run())
    await stage.wait(10)
    stage.world.store.api_down_until = stage.world.clock + 60
    result = await act
    assert (result.outcome, result.version) == ("refused", "1")
    assert stage.row("mine").outcome == "refused"
    assert stage.record.reserved is not None
    stage.pod("pod-1").silent_until = 0.0
    await stage.wait(60)
    # The next holder of the lock takes the reservation back.
    assert (await Try(stage, Job("next", version="2")).run()).outcome == "done"
    assert stage.row("mine").outcome == "refused"


# -- what serves already


@on_stage()
async def test_promoting_what_serves_reports_and_reserves_nothing(stage: Stage) -> None:
    before = stage.record
    result = await stage.promote("1")
    assert (result.act, result.outcome) == ("promote", "unchanged")
    assert (result.epoch, result.version) == (2, "1")
    assert (stage.record, stage.row("act-1").epoch) == (before, None)
    assert (stage.row("act-1").digest, stage.row("act-1").reason) == (digest_of("1"), result.reason)


@on_stage()
async def test_what_serves_gets_a_new_epoch_when_a_pod_has_seen_a_later_one(stage: Stage) -> None:
    stage.world.checks.commits.targets.add((7, digest_of("2")))
    pod = stage.pod("pod-2")
    pod.state = pod.state.serving(ServingTarget(7, "2", digest_of("2")), "cache")
    result = await stage.promote("1")
    assert (result.outcome, stage.serving, stage.way_back) == ("done", ("1", 8), ["2"])
    assert pod.state.target == ServingTarget(8, "1", digest_of("1"))
