"""Pauses and late answers of a promotion: no storm of calls, and nothing that goes on after it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest

from fraudops.errors import StoreDownError
from fraudops.promotion import patience
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.convergence import Convergence
from fraudops.promotion.mirror import AliasMirror
from fraudops.promotion.ports import (
    Deadlines,
    PodRef,
    PodRefusedError,
    PodUnresponsiveError,
    PromotionPorts,
    StaleRecordError,
    UnknownWriteError,
)
from fraudops.promotion.preparation import Preparation
from fraudops.promotion.serving_record import ServingRecord, ServingTarget, note_alias
from tests.support.simulation.jobs import ports_of
from tests.support.simulation.stage import Stage, on_stage
from tests.support.simulation.world import Actor

TARGET = ServingTarget(3, "3", "3" * 64)
SLOW = Deadlines(prepare=20, pause=2)


def ports(stage: Stage, **changed: Any) -> PromotionPorts:
    return replace(ports_of(stage.world, Actor("act")), deadlines=SLOW, **changed)


def write_of_another(stage: Stage) -> None:
    """Let another act change the record and its epoch."""
    current = stage.record.current
    assert current is not None
    later = msgspec.structs.replace(current, epoch=current.epoch + 1)
    stage.change(current=later)


@dataclass
class Watched:
    """A port that lets something happen before each call of one method."""

    port: Any
    method: str
    before: Callable[..., Any]
    calls: int = 0

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.port, name)
        if name != self.method:
            return call

        async def watched(*arguments: Any) -> Any:
            self.calls += 1
            await self.before(*arguments)
            return await call(*arguments)

        return watched


@on_stage(pods=0)
async def test_the_mirror_pauses_before_it_follows_a_record_that_moves(stage: Stage) -> None:
    async def move(alias: str, version: str) -> None:
        if alias == "production":
            write_of_another(stage)

    aliases = Watched(ports(stage).aliases, "set", move)
    began = stage.world.clock
    await AliasMirror(ports(stage, aliases=aliases)).sync(2)
    # Each round sets two aliases.
    assert stage.world.clock - began > SLOW.pause * aliases.calls / 2


@on_stage(pods=0)
async def test_a_change_pauses_before_it_follows_a_record_that_moves(stage: Stage) -> None:
    async def move(*_: object) -> None:
        write_of_another(stage)

    records = Watched(ports(stage).records, "compare_and_set", move)
    began = stage.world.clock
    with pytest.raises(StaleRecordError):
        await patience.change_record(
            ports(stage, records=records), lambda record: note_alias(record, "a note")
        )
    assert stage.world.clock - began > SLOW.pause * records.calls


@on_stage(pods=0)
async def test_an_unanswered_write_that_arrives_late_is_the_own_write(stage: Stage) -> None:
    calm = ports(stage).records
    record, token = await calm.read()

    async def lose(wanted: ServingRecord, token: Any) -> None:
        if records.calls == 1:
            raise UnknownWriteError("no answer")
        # The first message arrives only now, before the second one.
        await calm.compare_and_set(wanted, token)

    records = Watched(calm, "compare_and_set", lose)
    wanted = note_alias(record, "a note")
    new = await patience.write_record(ports(stage, records=records), wanted, token)
    assert (wanted, new) == await calm.read()


@on_stage(pods=0)
async def test_the_pods_are_listed_again_when_the_api_was_down(stage: Stage) -> None:
    stage.world.store.api_down_until = stage.world.clock + 15
    stage.world.cluster.create()
    pods = await patience.list_pods(ports(stage), stage.world.clock + 60)
    assert [pod.name for pod in pods] == ["pod-1"]
    stage.world.store.api_down_until = stage.world.clock + 600
    with pytest.raises(StoreDownError):
        await patience.list_pods(ports(stage), stage.world.clock + 10)


@on_stage(pods=0)
async def test_a_wait_that_ends_early_leaves_no_timer(stage: Stage) -> None:
    before = len(asyncio.all_tasks())
    tasks = [asyncio.ensure_future(stage.wait(1))]
    await patience.wait_for_all(ports(stage), tasks, 60)
    await stage.wait(1)
    assert len(asyncio.all_tasks()) == before


@dataclass
class OnePod:
    """One ready pod; `answer` is its half of a prepare. The first counts of pods fail."""

    stage: Stage
    answer: Callable[[], Any]
    ready: bool = True
    failing: int = 0
    reaches: int = 3
    calls: list[float] = field(default_factory=list)
    listings: int = 0

    async def list(self) -> Sequence[PodRef]:
        self.listings += 1
        await self.stage.wait(0)
        return [PodRef("a", ready=True)] if self.ready else []

    async def desired_replicas(self) -> int:
        await self.stage.wait(0)
        self.failing -= 1
        if self.failing >= 0:
            raise StoreDownError("the API is down")
        return 0

    async def epoch(self, pod: PodRef) -> int:
        return self.reaches

    async def prepare(self, pod: PodRef, target: ServingTarget, seconds: float) -> None:
        self.calls.append(self.stage.world.clock)
        await self.answer()


async def prepare(stage: Stage, pods: OnePod) -> str | None:
    return await Preparation(ports(stage, pods=pods)).prepare(TARGET)


@on_stage(pods=0)
async def test_a_refusal_just_after_the_deadline_is_the_reason(stage: Stage) -> None:
    async def refuse() -> None:
        await stage.wait(25)
        raise PodRefusedError("it scores otherwise")

    assert await prepare(stage, OnePod(stage, refuse)) == "pod a: it scores otherwise"


@on_stage(pods=0)
async def test_a_pod_that_never_answers_holds_the_promotion_only_to_its_deadline(
    stage: Stage,
) -> None:
    began = stage.world.clock
    reason = await prepare(stage, OnePod(stage, lambda: stage.wait(500)))
    assert reason == "pod a was not prepared within 20 s"
    assert stage.world.clock < began + 20 + 10 * SLOW.pause


@on_stage(pods=0)
async def test_no_pod_is_asked_after_the_end_of_a_prepare(stage: Stage) -> None:
    async def hang() -> None:
        await stage.wait(1)
        pods.ready = False
        await stage.wait(3)
        raise PodUnresponsiveError("no answer")

    pods = OnePod(stage, hang)
    assert await prepare(stage, pods) is None
    calls = len(pods.calls)
    await stage.wait(15)
    assert len(pods.calls) == calls


@on_stage(pods=0)
async def test_a_count_of_pods_that_fails_for_a_moment_ends_nothing(stage: Stage) -> None:
    pods = OnePod(stage, lambda: stage.wait(1), ready=False, failing=1)
    assert await prepare(stage, pods) is None


@on_stage(pods=0)
async def test_the_pods_are_listed_with_pauses_while_one_is_slow(stage: Stage) -> None:
    pods = OnePod(stage, lambda: stage.wait(18))
    assert await prepare(stage, pods) is None
    assert pods.listings < 10


@on_stage(pods=0)
async def test_a_rollout_asks_again_how_many_pods_are_wanted(stage: Stage) -> None:
    pods = OnePod(stage, lambda: stage.wait(1), failing=2)
    assert await Preparation(ports(stage, pods=pods)).roll_out(TARGET) is None


@on_stage(pods=0)
async def test_a_rollout_lists_the_pods_with_pauses(stage: Stage) -> None:
    pods = OnePod(stage, lambda: stage.wait(1), reaches=-1)
    pods.desired_replicas = lambda: asyncio.sleep(0, 1)  # type: ignore[method-assign]
    deadlines = Deadlines(rollout=60, pause=2)
    slow = replace(ports(stage, pods=pods), deadlines=deadlines)
    assert "0 of 1 new pods" in str(await Preparation(slow).roll_out(TARGET))
    assert pods.listings < 10


@on_stage(pods=0)
async def test_without_a_pod_it_is_asked_again_whether_one_is_wanted(stage: Stage) -> None:
    pods = OnePod(stage, lambda: stage.wait(1), ready=False, failing=2)
    attempt = Attempt(request="act", requested_by="user", at="then", outcome="done")
    end = await Convergence(ports(stage, pods=pods)).look(attempt, stage.record)
    assert end.attempt.outcome == "done"


@on_stage()
async def test_an_undo_waits_for_an_api_that_is_down_for_a_moment(stage: Stage) -> None:
    stage.world.odds["pods fall silent after a commit"] = 1.0
    promotion = stage.world.spawn(stage.promote("3"))
    while stage.serving != ("3", 3):
        await stage.wait(0.5)
    stage.world.odds.clear()
    await stage.wait(15)
    stage.world.store.api_down_until = stage.world.clock + 12
    result = await promotion
    assert result.outcome in ("failed", "unconfirmed")
    assert stage.serving == ("1", 4)
