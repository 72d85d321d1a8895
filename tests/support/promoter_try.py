"""One process of a promotion's request in the simulated cluster."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fraudops.promotion.changes import Promote, Rollback
from fraudops.promotion.ports import UnknownWriteError
from fraudops.promotion.protocol import Promoter
from fraudops.promotion.request import PromotionRequest, PromotionResult
from fraudops.promotion.serving_record import ServingRecord, note_alias
from tests.support.simulation.jobs import Gate, Job, ports_of
from tests.support.simulation.stage import Stage
from tests.support.simulation.store import SimRecords
from tests.support.simulation.world import Actor


class Try:
    """One process of a request. `then` runs after the gate has seen the record."""

    def __init__(
        self, stage: Stage, job: Job, then: Callable[[], None] = lambda: None, **ports: Any
    ) -> None:
        self.stage, self.then = stage, then
        self.actor = Actor(f"{job.id}/0", job)
        self.gate = Gate(stage.world, self.actor, job)
        self.asked = 0
        self.promoter = Promoter(replace(ports_of(stage.world, self.actor), **ports))
        self.request = PromotionRequest(
            job.id,
            "user",
            self.decide,
            job.act,
            job.version,
            job.strategy,
            job.if_epoch,
            actor="user@bank",
            authenticated=True,
            approver="second user",
        )

    async def decide(self, record: ServingRecord) -> Promote | Rollback:
        self.asked += 1
        change = await self.gate.decide(record)
        self.then()
        return change

    async def run(self) -> PromotionResult:
        return await self.promoter.run(self.request)


class LosesTheCommit(SimRecords):
    """Records that lose the answer to the commit of epoch 3. A note changes just after it."""

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        written = await super().compare_and_set(record, token)
        if record.epoch == 3 and record.alias_epoch == 2 and not record.alias_note:
            store = self.world.store
            store.overwrite(note_alias(store.record, "a note"))
            raise UnknownWriteError("the store does not answer")
        return written
