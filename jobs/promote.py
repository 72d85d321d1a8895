"""Move a version to production.

Afterwards every worker serves it, or nothing has changed, or the message names the pods that are
behind. The table `promotions` has the outcome and its reason.
"""

import asyncio
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import click

from fraudops.errors import FraudopsError, RefusedError, SettingsError, UnknownVersionError
from fraudops.promotion.admission import Waiver, admit
from fraudops.promotion.attempt import Strategy
from fraudops.promotion.changes import Promote
from fraudops.promotion.request import PromotionRequest, PromotionResult
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import LATEST, ModelVersion, Registry
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.validation.gates import GateResult
from fraudops.wiring import PromotionContext, open_promotion_context
from jobs.on_cluster import on_cluster
from jobs.reports.promotion import ending, late_notices
from jobs.runner import (
    if_epoch_option,
    json_option,
    output,
    print_json,
    run,
    say,
    state_option,
    target_options,
    user_name,
    warn,
)

# The serving record keeps the reason, and a ConfigMap may have 1 MiB.
MAX_REASON = 1000


@dataclass(frozen=True)
class PromotionOptions:
    """The version to promote and how.

    `waiver_reason` waives the gates for this promotion alone. With `if_epoch` the promotion is
    refused unless the serving record is at exactly this epoch; 0 means that no version serves.
    """

    version: str
    strategy: Strategy = "broadcast"
    waiver_reason: str | None = None
    if_epoch: int | None = None


@dataclass(frozen=True)
class PromotionGate:
    """The gate of one promotion. The promoter calls it while it holds the promotion lock."""

    registry: Registry
    settings: PromoteJobSettings
    options: PromotionOptions
    waiver: Waiver | None = None

    async def decide(self, record: ServingRecord) -> Promote:
        """Return the promotion of the version.

        Raises RefusedError with the reason, UnknownVersionError or StoreDownError.
        """
        # Calls of the registry and the comparison block for seconds. On the event loop they would
        # stop the renewal of the lock, and another promoter would take it.
        return await asyncio.to_thread(self._decide, record)

    def _decide(self, record: ServingRecord) -> Promote:
        return admit(
            self.registry.find(self.options.version),
            record,
            self.options.strategy,
            recompare=lambda version: self._compare_again(version, record),
            environment=self.settings.environment,
            waiver=self.waiver,
        )

    def _compare_again(self, version: ModelVersion, record: ServingRecord) -> list[GateResult]:
        """Compare the version with the one that serves now, which the verdict may not know."""
        from fraudops.validation.verdict import recompare

        if record.current is None:
            return []
        try:
            serving = self.registry.version(record.current.version)
        except UnknownVersionError as error:
            raise RefusedError(
                f"production has moved to version {record.current.version} since the verdict, and "
                "the registry no longer has that version to compare with; "
                "`--force --reason …` waives the comparison"
            ) from error
        return recompare(self.registry, version, serving, self.settings.gates.as_gate_settings())


def promote_version(state: State, options: PromotionOptions) -> PromotionResult:
    """Run a promotion. Raises StoreDownError or UnknownVersionError."""
    return asyncio.run(_promote(state, options))


async def _promote(state: State, options: PromotionOptions) -> PromotionResult:
    settings = PromoteJobSettings.from_environment()
    async with open_promotion_context(settings, state, say) as context:
        gate = PromotionGate(context.registry, settings, options, _waiver(options.waiver_reason))
        request = PromotionRequest(
            id=settings.request_id or str(uuid.uuid4()),
            requested_by=user_name(),
            decide=gate.decide,
            # The number of `latest` is not known before the gate looks it up.
            version="" if options.version == LATEST else options.version,
            strategy=options.strategy,
            if_epoch=options.if_epoch,
        )
        return await carry_out(context, request)


async def carry_out(context: PromotionContext, request: PromotionRequest) -> PromotionResult:
    """Run the request. Warn when it has committed and the registry differs from the record."""
    result = await context.promoter().run(request)
    if result.outcome not in ("refused", "overtaken") and "alias" not in result.late:
        # The act has ended, so a record that cannot be read now must not make it fail.
        with suppress(FraudopsError):
            record, _ = await context.ports.records.read()
            if record.alias_error:
                warn(record.alias_error)
    return result


def _waiver(reason: str | None) -> Waiver | None:
    if reason is None:
        return None
    return Waiver(reason, user_name(), datetime.now(UTC).isoformat(timespec="seconds"))


def report(result: PromotionResult, seconds: float, as_json: bool, state: State) -> str:
    """Print how the act ended and return it as one sentence. Raises as `ending` does."""
    # The JSON object is printed for failures too, so it is printed before the error is raised.
    if as_json:
        print_json(asdict(result) | {"seconds": round(seconds, 3)})
    for late in late_notices(result):
        warn(f"late: {late}")
    sentence = ending(result, seconds, target_options(state))
    if not as_json:
        output.print(sentence)
    return sentence


@on_cluster("promote")
@click.command(name="promote")
@click.option("--version", required=True, metavar="N", help="The version to promote, or `latest`.")
@click.option(
    "--alias",
    type=click.Choice(["production"]),
    default="production",
    show_default=True,
    help="The alias that the version gets.",
)
@click.option(
    "--strategy",
    type=click.Choice(["broadcast", "rollout"]),
    default="broadcast",
    show_default=True,
    help="How pods get the version. A change of schema needs rollout.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Promote without a passing verdict. The reason is stored with this promotion, and the "
    "next promotion of the version needs its own.",
)
@click.option("--reason", metavar="TEXT", help="Why the gates are waived (with --force).")
@if_epoch_option
@json_option
@state_option
def command(
    version: str,
    alias: str,
    strategy: Strategy,
    force: bool,
    reason: str | None,
    if_epoch: int | None,
    as_json: bool,
    state: State,
) -> str:
    """Move a version to production, everywhere or nowhere.

    The version needs a passing verdict for exactly its bundle. Every worker loads it next to the
    one that it serves. If one worker refuses, nothing changes. If pods do not follow after that,
    the command undoes the promotion, or names the pods and exits with 75.
    """
    if len(reason or "") > MAX_REASON:
        raise SettingsError(f"--reason may have at most {MAX_REASON} characters")
    if force and not (reason or "").strip():
        raise SettingsError("--force needs --reason TEXT: the promotion stores the reason")
    if reason and not force:
        raise SettingsError("--reason is valid only with --force")
    started = time.monotonic()
    result = promote_version(state, PromotionOptions(version, strategy, reason, if_epoch))
    return report(result, time.monotonic() - started, as_json, state)


if __name__ == "__main__":
    run(command)
