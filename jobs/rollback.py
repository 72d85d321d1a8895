"""Goes back to what served before: the top of the record's stack.

Needs neither MLflow nor PostgreSQL.
"""

import asyncio
import time
import uuid

import click

from fraudops.promotion.admission import way_back
from fraudops.promotion.convergence import PromotionResult
from fraudops.promotion.ports import PromotionCandidate
from fraudops.promotion.protocol import PromotionRequest
from fraudops.promotion.serving_record import ServingRecord, Strategy
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.wiring import open_promotion_context
from jobs.on_cluster import on_cluster
from jobs.promote import report, say, who
from jobs.runner import json_option, run, state_option


def roll_back(state: State) -> PromotionResult:
    settings = PromoteJobSettings.from_environment()

    async def choose(record: ServingRecord) -> PromotionCandidate:
        return way_back(record, settings.environment)

    async def go() -> PromotionResult:
        async with open_promotion_context(settings, state, say) as context:
            record, _ = await context.records.read()
            back = record.stack[0] if record.stack else None
            crosses = (
                record.current
                and back
                and back.schema_fingerprint != record.current.schema_fingerprint
            )
            strategy: Strategy = "rollout" if crosses else "broadcast"
            request = PromotionRequest(
                settings.request_id or str(uuid.uuid4()),
                who(),
                choose,
                back.version if back else "",
                strategy,
                rollback=True,
            )
            return await context.promoter().run(request)

    return asyncio.run(go())


@on_cluster("promote", "jobs.rollback")
@click.command(name="rollback")
@json_option
@state_option
def command(as_json: bool, state: State) -> str:
    """Back to what served before; again, and it goes further back, never forward."""
    started = time.monotonic()
    return report(roll_back(state), time.monotonic() - started, as_json)


if __name__ == "__main__":
    run(command)
