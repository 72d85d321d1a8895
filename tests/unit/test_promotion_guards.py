"""What an act checks once more before it changes anything, and how it waits."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace as replace_fields

from fraudops.errors import StoreDownError
from fraudops.promotion import patience
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import Promote, reservation
from fraudops.promotion.convergence import Convergence
from fraudops.promotion.local import SystemClock
from fraudops.promotion.pod_rules import PodState, may_turn_ready
from fraudops.promotion.ports import Clock, PodRef, UnknownWriteError
from fraudops.promotion.preparation import Preparation
from fraudops.promotion.serving_record import (
    UNWRITTEN_LIMIT,
    ServingRecord,
    ServingTarget,
    keep_outcome,
    note_alias,
    reserve,
)
from tests.support.committed_act import DOWN, REFUSED, Act, for_ever, outcome, ready
from tests.support.simulation.founding import entry_of, model_of
from tests.support.simulation.jobs import Job, ports_of
from tests.support.simulation.stage import Stage, on_stage
from tests.support.simulation.world import Actor

PAUSE = 0.2
TARGET = ServingTarget(3, "3", "3" * 64)


# -- the undo


@on_stage(pods=0)
async def test_a_promoter_that_loses_the_lock_between_two_tries_undoes_nothing(
    stage: Stage,
) -> None:
    act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))

    def lose() -> None:
        act.change(alias_note="moved")
        act.ports.lock.actor.lost_lock = True  # type: ignore[attr-defined]
        act.pods.on_epoch = None

    act.pods.on_epoch = lose
    assert outcome(await act.finish()) == ("unconfirmed", ("a", "b"))
    assert stage.serving == ("3", 3)


@on_stage(pods=0)
async def test_what_another_act_has_reserved_is_not_undone(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent=for_ever("a", "b"))
    reserved = reservation(Promote(model_of("2"), "broadcast"), 4, "another", "grace", "then")

    def reserve() -> None:
        act.change(reserved=reserved)
        act.pods.on_epoch = None

    act.pods.on_epoch = reserve
    assert outcome(await act.finish()) == ("unconfirmed", ("a", "b"))
    assert (stage.serving, stage.record.reserved) == (("3", 3), reserved)


@on_stage(pods=0)
async def test_an_undo_waits_for_the_list_of_pods(stage: Stage) -> None:
    act = Act(stage, ready("a"), ready("b"), silent={"a": 24.0, "b": 24.0})

    def fail_next() -> None:
        act.change(alias_note="moved")
        act.pods.lists += [DOWN, DOWN]
        act.pods.on_epoch = None

    act.pods.on_epoch = fail_next
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
    assert min(after - before for before, after in pairwise(decisions)) >= PAUSE


# -- the wait for pods


@on_stage(pods=0)
async def test_a_pod_that_follows_a_moment_later_is_called_again_soon(stage: Stage) -> None:
    act = Act(stage, ready("a"), error=REFUSED)
    act.pods.on_call = lambda: act.pods.silent.update(a=stage.world.clock + 0.1)
    assert outcome(await act.finish()) == ("done", ())
    assert act.taken < 5 * PAUSE


@on_stage(pods=0)
async def test_a_wait_for_a_starting_pod_alone_names_no_pod_that_is_behind(stage: Stage) -> None:
    starting = PodRef("b", ready=False, running=False)
    act = Act(stage, ready("a"), starting)
    deadlines = replace(act.ports.deadlines, starting=15.0)
    act.convergence = Convergence(replace(act.ports, deadlines=deadlines))
    assert outcome(await act.finish()) == ("done", ())
    assert not [line for line in act.said if line.startswith("waiting for")]


@dataclass
class NewPods:
    """The pods of a rollout. Each that runs serves the new version."""

    clock: Clock
    listed: Sequence[PodRef]
    wanted: int
    listings: int = 0

    async def list(self) -> Sequence[PodRef]:
        self.listings += 1
        await self.clock.sleep(0)
        return self.listed

    async def desired_replicas(self) -> int:
        await self.clock.sleep(0)
        return self.wanted

    async def epoch(self, pod: PodRef) -> int:
        return TARGET.epoch


@on_stage(pods=0)
async def test_a_pod_whose_container_has_ended_is_no_new_pod_of_a_rollout(stage: Stage) -> None:
    calm = ports_of(stage.world, Actor("act"))
    restarting = PodRef("b", ready=True, running=False, restarting=True)
    pods = NewPods(calm.clock, (ready("a"), restarting), wanted=2)
    failure = await Preparation(replace(calm, pods=pods)).roll_out(TARGET)
    assert failure is not None
    assert "only 1 of 2 new pods" in failure


@on_stage(pods=0)
async def test_pods_of_a_refused_rollout_are_not_listed_without_pauses(stage: Stage) -> None:
    calm = ports_of(stage.world, Actor("act"))
    pods = NewPods(calm.clock, (ready("a"),), wanted=1)
    await Preparation(replace(calm, pods=pods)).wait_until_replaced(TARGET)
    assert pods.listings <= calm.deadlines.retry / PAUSE


@on_stage(pods=0)
async def test_a_pod_of_a_refused_rollout_on_a_lost_node_is_not_waited_for(stage: Stage) -> None:
    calm = ports_of(stage.world, Actor("act"))
    lost = PodRef("a", ready=False, running=False, lost="its node does not answer")
    pods = NewPods(calm.clock, (lost,), wanted=1)
    assert await Preparation(replace(calm, pods=pods)).wait_until_replaced(TARGET) == ()
    assert pods.listings == 1


# -- a later try


def left(stage: Stage, request: str, epoch: int, **fields: Any) -> ServingRecord:
    """Return the record after the request has reserved this epoch."""
    change = Promote(model_of("3"), "broadcast")
    wanted = reservation(change, epoch, request, "grace", "then")
    return replace_fields(reserve(stage.record, wanted), **fields)


@on_stage()
async def test_a_later_try_reports_why_an_earlier_one_has_undone(stage: Stage) -> None:
    undone = entry_of("2", 4, act="undo", by="mine", undo=True)
    stage.world.checks.commits.targets.add((4, undone.digest))
    kept = Attempt(
        request="mine",
        requested_by="ada",
        at="then",
        epoch=3,
        outcome="failed",
        reason="not confirmed by pod-1",
        finished_at="then",
    )
    stage.write(keep_outcome(left(stage, "mine", 3, current=undone, reserved=None), kept))
    result = await stage.act(Job("mine", version="3"))
    assert (result.outcome, result.reason) == ("failed", "not confirmed by pod-1")


@on_stage()
async def test_the_row_of_an_overtaken_try_says_at_which_epoch_and_by_what(stage: Stage) -> None:
    later = entry_of("3", 4, by="another")
    stage.world.checks.commits.targets.add((4, later.digest))
    stage.write(left(stage, "mine", 3, current=later, reserved=None))
    assert (await stage.act(Job("mine", version="3"))).outcome == "overtaken"
    row = stage.row("mine")
    assert (row.outcome, row.epoch) == ("overtaken", 3)
    assert row.reason == "version 3 was promoted since (epoch 4)"


# -- a restarted pod


def test_a_restarted_pod_without_a_model_waits_for_the_record() -> None:
    assert not may_turn_ready(PodState(restarted=True), None)
    assert may_turn_ready(PodState(restarted=True).serving(TARGET, "cache"), None)


# -- the record


def row(number: int, outcome: Any) -> Attempt:
    return Attempt(request=f"r{number}", requested_by="ada", at="then", outcome=outcome)


def test_no_model_is_the_same_as_none() -> None:
    assert not model_of("3").is_same_model(None)


def test_at_the_limit_the_oldest_row_of_an_act_that_changed_nothing_gives_way() -> None:
    record = ServingRecord()
    outcomes = ["done", "refused", "done", "refused"] + ["done"] * (UNWRITTEN_LIMIT - 4)
    for number, ended in enumerate(outcomes):
        record = keep_outcome(record, row(number, ended))
    assert len(record.unwritten) == UNWRITTEN_LIMIT
    kept = keep_outcome(record, row(1000, "done")).unwritten
    assert kept == (record.unwritten[0], *record.unwritten[2:], row(1000, "done"))


# -- writes


@dataclass
class Writes:
    """A record whose writes end with these errors."""

    record: ServingRecord
    errors: list[Exception]

    async def read(self) -> tuple[ServingRecord, int]:
        return self.record, 1

    async def compare_and_set(self, record: ServingRecord, token: int) -> int:
        raise self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]


@on_stage(pods=0)
async def test_a_write_without_an_answer_stays_unknown_when_the_store_is_down_later(
    stage: Stage,
) -> None:
    first = UnknownWriteError("the connection was reset")
    records = Writes(stage.record, [first, StoreDownError("down")])
    ports = replace(ports_of(stage.world, Actor("act")), records=records)
    # The first write may still arrive, so the act must not end as if nothing had been written.
    with pytest.raises(UnknownWriteError) as raised:
        await patience.write_record(ports, note_alias(stage.record, "a note"), 1)
    assert raised.value.__cause__ is first


@on_stage(pods=0)
async def test_an_unknown_write_names_the_error_of_the_write(stage: Stage) -> None:
    first = UnknownWriteError("the connection was reset")
    records = Writes(stage.record, [first])
    ports = replace(ports_of(stage.world, Actor("act")), records=records)

    async def down() -> tuple[ServingRecord, int]:
        raise StoreDownError("down")

    records.read = down  # type: ignore[method-assign]
    with pytest.raises(UnknownWriteError, match="down") as raised:
        await patience.write_record(ports, note_alias(stage.record, "a note"), 1)
    assert raised.value.__cause__ is first


async def test_others_run_while_a_program_sleeps() -> None:
    order: list[str] = []

    async def sleep() -> None:
        await SystemClock().sleep(0.02)
        order.append("awake")

    sleeping = asyncio.create_task(sleep())
    await asyncio.sleep(0)
    order.append("others")
    await sleeping
    assert order == ["others", "awake"]
