"""The parts that a promoter and a reconciler are built from, and the names that they pass on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.changes import Promote
from fraudops.promotion.convergence import Convergence, Ending
from fraudops.promotion.ports import PromotionPorts
from fraudops.promotion.preparation import Preparation
from fraudops.promotion.protocol import Promoter
from fraudops.promotion.reconcile import Reconciler
from fraudops.promotion.request import PromotionRequest
from fraudops.promotion.serving_record import ServingRecord, encode
from tests.support.simulation.founding import entry_of, model_of
from tests.support.simulation.jobs import Job, ports_of
from tests.support.simulation.registry import digest_of
from tests.support.simulation.stage import Stage, on_stage
from tests.support.simulation.store import SimLock
from tests.support.simulation.world import Actor


class Refuses(Preparation):
    async def prepare(self, target: Any) -> str | None:
        return f"not version {target.version}"


class LeavesTheAlias(Convergence):
    async def finish(self, attempt: Any, record: Any) -> Ending:
        return replace(await super().finish(attempt, record), late=("alias",))


class NamedLock(SimLock):
    """A lock that keeps the names of its holders."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.world, Actor("a process"))
        self.holders = list[str]()

    @asynccontextmanager
    async def hold(self, holder: str) -> AsyncIterator[None]:
        self.holders.append(holder)
        async with super().hold(holder):
            yield


@on_stage()
async def test_a_promoter_uses_the_preparation_that_it_is_given(stage: Stage) -> None:
    stage.runner.promoter = lambda ports: Promoter(ports, preparation=Refuses(ports))
    result = await stage.promote("3")
    assert (result.outcome, result.reason) == ("refused", "not version 3")


@on_stage()
async def test_a_promoter_uses_the_convergence_that_it_is_given(stage: Stage) -> None:
    stage.runner.promoter = lambda ports: Promoter(ports, convergence=LeavesTheAlias(ports))
    assert (await stage.promote("3")).late == ("alias",)


@on_stage()
async def test_the_lock_shows_the_request_and_the_reconciler_that_hold_it(stage: Stage) -> None:
    lock = NamedLock(stage)

    def with_lock(ports: PromotionPorts) -> Promoter:
        return Promoter(replace(ports, lock=lock))

    stage.runner.promoter = with_lock
    await stage.promote("4")
    await Reconciler(with_lock(ports_of(stage.world, Actor("it"))).ports).run("the reconciler")
    assert lock.holders == ["act-1", "the reconciler"]


@on_stage()
async def test_a_reconciler_uses_the_promoter_that_it_is_given(stage: Stage) -> None:
    seen = list[str]()

    class Watched(Promoter):
        async def clear_abandoned(self, state: Any, request: str) -> Any:
            seen.append(request)
            return await super().clear_abandoned(state, request)

    ports = ports_of(stage.world, Actor("reconciler"))
    await Reconciler(ports, Watched(ports)).run("the reconciler")
    assert seen == ["the reconciler"]


@on_stage()
async def test_a_reconciler_adopts_the_record_with_the_lock_and_ends_well_if_it_cannot(
    stage: Stage,
) -> None:
    """A new token of the record would end a promotion that has the lock."""
    actor, held, said = Actor("reconciler"), list[bool](), list[str]()

    async def adopt() -> None:
        held.append(stage.world.store.lease.holder is actor)
        raise StoreDownError("the API is away")

    ports = replace(ports_of(stage.world, actor), adopt=adopt, say=said.append)
    assert (await Reconciler(ports).run("the reconciler")).late == ()
    assert held == [True]
    assert said[-1].endswith("the API is away")


@on_stage()
async def test_a_refused_rollback_is_reported_as_a_rollback(stage: Stage) -> None:
    first = msgspec.structs.replace(stage.record, stack=(), previous=None)
    stage.world.store.start_from(encode(first))
    result = await stage.act(Job("mine", act="rollback"))
    assert (result.act, result.outcome) == ("rollback", "refused")
    row = stage.row("mine")
    assert (row.act, row.outcome, row.version, row.epoch) == ("rollback", "refused", "", None)


@on_stage()
async def test_a_rollback_is_reported_with_the_version_that_its_gate_has_chosen(
    stage: Stage,
) -> None:
    result = await stage.roll_back()
    assert (result.act, result.outcome, result.version) == ("rollback", "done", "2")
    row = stage.row("act-1")
    assert (row.act, row.version, row.digest) == ("rollback", "2", digest_of("2"))
    assert (row.from_version, row.epoch, row.strategy) == ("1", 3, "broadcast")
    assert stage.record.current is not None
    assert stage.record.current.act == "rollback"


@on_stage()
async def test_a_promotion_of_what_serves_is_overtaken_by_a_later_act(stage: Stage) -> None:
    async def decide(record: ServingRecord) -> Promote:
        later = entry_of("2", 4)
        stage.world.checks.commits.targets.add((4, later.digest))
        stage.world.store.start_from(encode(msgspec.structs.replace(record, current=later)))
        return Promote(model_of("1"), "broadcast")

    promoter = Promoter(ports_of(stage.world, Actor("mine")))
    result = await promoter.run(PromotionRequest("mine", "ada", decide, version="1"))
    assert (result.outcome, result.epoch, result.version) == ("overtaken", 4, "2")
    assert (stage.row("mine").outcome, stage.row("mine").version) == ("overtaken", "1")


class LostLock(SimLock):
    """A lock that is lost, in a moment in which the store of the record does not answer."""

    async def held(self) -> bool:
        self.world.store.api_down_until = self.world.clock + 2
        return False


class LapsingLock(SimLock):
    """A lock whose time ends as soon as a test says so."""

    lapsed = False

    async def held(self) -> bool:
        return not self.lapsed


@on_stage()
async def test_an_act_without_the_lock_begins_again_if_no_other_has_committed(
    stage: Stage,
) -> None:
    async def decide(record: ServingRecord) -> Promote:
        stage.world.store.token += 1
        return Promote(model_of("3"), "broadcast")

    actor = Actor("mine")
    ports = replace(ports_of(stage.world, actor), lock=LostLock(stage.world, actor))
    with pytest.raises(StoreDownError, match="another promotion has taken the lock: try again"):
        await Promoter(ports).run(PromotionRequest("mine", "ada", decide))
    assert stage.row("mine").outcome == "refused"


@pytest.mark.parametrize("refuses", [True, False])
def test_a_process_that_loses_the_lock_in_its_gate_leaves_the_end_to_another_try(
    refuses: bool,
) -> None:
    async def play(stage: Stage) -> None:
        async def decide(record: ServingRecord) -> Promote:
            lock.lapsed = True
            if refuses:
                raise RefusedError("the registry has no version 3")
            return Promote(model_of("3"), "broadcast")

        actor = Actor("mine")
        lock = LapsingLock(stage.world, actor)
        ports = replace(ports_of(stage.world, actor), lock=lock)
        with pytest.raises(StoreDownError, match="another promotion has taken the lock: try again"):
            await Promoter(ports).run(PromotionRequest("mine", "ada", decide))
        assert (stage.serving, stage.record.requests) == (("1", 2), ())

    on_stage()(play)()


def test_a_request_is_a_promotion_by_broadcast_unless_it_says_otherwise() -> None:
    async def decide(_: object) -> Any:
        pytest.fail("this gate is not called")

    request = PromotionRequest("mine", "ada", decide)
    assert (request.act, request.strategy, request.version) == ("promote", "broadcast", "")
    assert request.if_epoch is None
