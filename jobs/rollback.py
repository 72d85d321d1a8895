"""Return to the version that served before: the top of the serving record's stack.

Needs neither MLflow nor PostgreSQL.
"""

import asyncio
import time
import uuid
from dataclasses import dataclass

import click

from fraudops.promotion.admission import Environment, way_back
from fraudops.promotion.convergence import PromotionResult
from fraudops.promotion.ports import PromotionCandidate
from fraudops.promotion.protocol import PromotionRequest
from fraudops.promotion.serving_record import ServingRecord, Strategy
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.wiring import open_promotion_context
from jobs.on_cluster import on_cluster
from jobs.promote import report
from jobs.runner import json_option, run, say, state_option, user_name


@dataclass(frozen=True)
class RollbackGate:
    """The gate of one rollback. The promoter calls it while it holds the promotion lock."""

    environment: Environment

    async def choose(self, record: ServingRecord) -> PromotionCandidate:
        """Return the version to go back to. Raises RefusedError."""
        return way_back(record, self.environment)


def roll_back(state: State) -> PromotionResult:
    """Run a rollback. Raises StoreDownError."""
    return asyncio.run(_roll_back(state))


async def _roll_back(state: State) -> PromotionResult:
    settings = PromoteJobSettings.from_environment()
    async with open_promotion_context(settings, state, say) as context:
        record, _ = await context.records.read()
        previous = record.stack[0] if record.stack else None
        request = PromotionRequest(
            id=settings.request_id or str(uuid.uuid4()),
            requested_by=user_name(),
            choose=RollbackGate(settings.environment).choose,
            version=previous.version if previous else "",
            strategy=strategy_for(record),
            rollback=True,
        )
        return await context.promoter().run(request)


def strategy_for(record: ServingRecord) -> Strategy:
    """Return `rollout` if the rollback changes the schema, else `broadcast`."""
    if not record.current or not record.stack:
        return "broadcast"
    same_schema = record.stack[0].schema_fingerprint == record.current.schema_fingerprint
    return "broadcast" if same_schema else "rollout"


@on_cluster("promote", "jobs.rollback")
@click.command(name="rollback")
@json_option
@state_option
def command(as_json: bool, state: State) -> str:
    """Return to the version that served before.

    Each further rollback goes one version further back, never forward.
    """
    started = time.monotonic()
    return report(roll_back(state), time.monotonic() - started, as_json)


if __name__ == "__main__":
    run(command)
