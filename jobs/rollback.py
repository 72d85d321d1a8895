"""Return to the version that served before: the way back in the serving record.

Needs neither MLflow nor PostgreSQL.
"""

import asyncio
import time
import uuid
from dataclasses import dataclass

import click

from fraudops.errors import RefusedError
from fraudops.progress import Say
from fraudops.promotion.admission import Environment, go_back
from fraudops.promotion.attempt import Strategy
from fraudops.promotion.changes import Rollback, changes_schema
from fraudops.promotion.request import PromotionRequest, PromotionResult
from fraudops.promotion.serving_record import UNSIGNED, ServingRecord
from fraudops.settings import PromoteJobSettings
from fraudops.signing.keys import PublicKeys
from fraudops.state import State
from fraudops.wiring import open_promotion_context
from jobs.on_cluster import on_cluster
from jobs.promote import carry_out, report
from jobs.requests import forbidden, requester
from jobs.runner import if_epoch_option, json_option, run, say, state_option, warn


@dataclass(frozen=True)
class RollbackGate:
    """The gate of one rollback. The promoter calls it while it holds the promotion lock.

    `in_place` means that one machine has no pods to replace, so that a rollout replaces the model
    inside the service.
    """

    keys: PublicKeys
    environment: Environment
    in_place: bool
    warn: Say = warn
    strategies: tuple[Strategy, ...] = ("broadcast", "rollout")

    async def decide(self, record: ServingRecord) -> Rollback:
        """Return the rollback, and warn about what changes with it. Raises RefusedError."""
        change = go_back(record, self.keys, self.environment)
        if change.strategy not in self.strategies:
            raise RefusedError(
                f"version {change.model.version}, the way back, reads other columns, so it needs "
                f"{change.strategy}, and {forbidden(change.strategy)}"
            )
        if change.model.unsigned:
            self.warn(
                f"version {change.model.version} is {UNSIGNED}: release 0.2.0 promoted it, and no "
                "signature proves its verdict"
            )
        if record.current and changes_schema(record, change.model):
            way = (
                "on one machine the model is replaced in place, so clients must change their "
                "requests now"
                if self.in_place
                else "clients must change their requests, so this goes by rollout"
            )
            self.warn(
                f"version {change.model.version} reads other columns than version "
                f"{record.current.version}: {way}"
            )
        return change


def roll_back(state: State, if_epoch: int | None = None) -> PromotionResult:
    """Run a rollback. Raises StoreDownError.

    With `if_epoch` it is refused unless the serving record is at exactly this epoch.
    """
    return asyncio.run(_roll_back(state, if_epoch))


async def _roll_back(state: State, if_epoch: int | None) -> PromotionResult:
    settings = PromoteJobSettings.from_environment()
    who = requester(settings)
    keys = PublicKeys.read(settings.signing.public_keys_of(state))
    async with open_promotion_context(settings, state, say) as context:
        gate = RollbackGate(
            keys,
            settings.environment,
            in_place=context.ports.rollouts is None,
            strategies=settings.promotion.strategies,
        )
        request = PromotionRequest(
            id=settings.request_id or str(uuid.uuid4()),
            requested_by=who.name,
            actor=who.actor,
            authenticated=who.authenticated,
            decide=gate.decide,
            act="rollback",
            if_epoch=if_epoch,
        )
        return await carry_out(context, request)


@on_cluster("promote", "jobs.rollback")
@click.command(name="rollback")
@if_epoch_option
@json_option
@state_option
def command(if_epoch: int | None, as_json: bool, state: State) -> str:
    """Return to the version that served before.

    Each further rollback goes one version further back, never forward.
    """
    started = time.monotonic()
    result = roll_back(state, if_epoch)
    return report(result, time.monotonic() - started, as_json, state)


if __name__ == "__main__":
    run(command)
