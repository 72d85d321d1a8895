"""Move a version to production.

Afterwards every worker serves it, or nothing has changed and the reason is recorded.
"""

import asyncio
import json
import time
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import click

from fraudops.errors import RefusedError, SettingsError, StoreDownError
from fraudops.promotion.admission import admit
from fraudops.promotion.convergence import PromotionResult
from fraudops.promotion.ports import PromotionCandidate
from fraudops.promotion.protocol import PromotionRequest
from fraudops.promotion.serving_record import ServingRecord, Strategy
from fraudops.registry import LATEST, TAG_WAIVER, ModelVersion
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from fraudops.validation.gates import GateResult
from fraudops.wiring import PromotionContext, open_promotion_context
from jobs.on_cluster import on_cluster
from jobs.runner import (
    json_option,
    notices,
    output,
    print_json,
    run,
    say,
    state_option,
    user_name,
)


@dataclass(frozen=True)
class PromotionOptions:
    """The version to promote and how.

    `waiver_reason` writes a waiver for exactly the digest of this version before the gate.
    `first_only` refuses the promotion if any version serves already.
    """

    version: str
    strategy: Strategy = "broadcast"
    waiver_reason: str | None = None
    first_only: bool = False


@dataclass(frozen=True)
class PromotionGate:
    """The gate of one promotion. The promoter calls it while it holds the promotion lock."""

    context: PromotionContext
    settings: PromoteJobSettings
    options: PromotionOptions

    async def choose(self, record: ServingRecord) -> PromotionCandidate:
        """Return the version to promote.

        Raises RefusedError with the reason, UnknownVersionError or StoreDownError.
        """
        if self.options.first_only and record.current:
            raise RefusedError(f"version {record.current.version} serves already")
        candidate = self.context.registry.find(self.options.version)
        # A version without a bundle has no digest to waive for; `admit` refuses it.
        if self.options.waiver_reason is not None and candidate.digest:
            candidate = self._waive(candidate, candidate.digest, self.options.waiver_reason)
        return admit(
            candidate,
            record,
            self.options.strategy,
            recompare=lambda version: self._compare_again(version, record),
            environment=self.settings.environment,
        )

    def _waive(self, version: ModelVersion, digest: str, reason: str) -> ModelVersion:
        """Store a waiver on the version and return the version with it."""
        waiver = {
            "digest": digest,
            "reason": reason,
            "who": user_name(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        self.context.registry.set_tag(version.version, TAG_WAIVER, json.dumps(waiver))
        return replace(version, waiver=waiver)

    def _compare_again(self, version: ModelVersion, record: ServingRecord) -> list[GateResult]:
        """Compare the version with the one that serves now, which the verdict may not know."""
        from fraudops.validation.verdict import recompare

        if record.current is None:
            return []
        registry = self.context.registry
        serving = registry.version(record.current.version)
        return recompare(registry, version, serving, self.settings.gates.as_gate_settings())


def promote_version(state: State, options: PromotionOptions) -> PromotionResult:
    """Run a promotion. Raises StoreDownError or UnknownVersionError."""
    return asyncio.run(_promote(state, options))


async def _promote(state: State, options: PromotionOptions) -> PromotionResult:
    settings = PromoteJobSettings.from_environment()
    async with open_promotion_context(settings, state, say) as context:
        request = PromotionRequest(
            id=settings.request_id or str(uuid.uuid4()),
            requested_by=user_name(),
            choose=PromotionGate(context, settings, options).choose,
            # The number of `latest` is not known before the gate looks it up.
            version="" if options.version == LATEST else options.version,
            strategy=options.strategy,
        )
        return await context.promoter().run(request)


def outcome_of(result: PromotionResult, seconds: float) -> str:
    """Return the outcome of a successful promotion as one line.

    Raises RefusedError if nothing has changed, and StoreDownError if the new version is
    committed but not confirmed by every pod.
    """
    if result.outcome in ("done", "unchanged"):
        done = (
            "serves on every worker"
            if result.outcome == "done"
            else "is in production already: nothing has changed"
        )
        return f"version {result.version} {done} (epoch {result.epoch}, {seconds:.1f} s)"
    serves = (
        f"version {result.version} serves (epoch {result.epoch})"
        if result.version
        else "no model serves"
    )
    if result.outcome == "unconfirmed":
        raise StoreDownError(
            f"unconfirmed: the record names version {result.version} (epoch {result.epoch}), "
            f"but {result.reason}; see `fraudops status`"
        )
    raise RefusedError(f"{result.outcome}: {result.reason}; {serves}")


def report(result: PromotionResult, seconds: float, as_json: bool) -> str:
    """Print the outcome and return it as one line. Raises as `outcome_of` does."""
    # The JSON object is printed for failures too, so it is printed before the error is raised.
    if as_json:
        print_json(asdict(result) | {"seconds": round(seconds, 3)})
    outcome = outcome_of(result, seconds)
    if not as_json:
        output.print(outcome)
    if result.late:
        notices.print(
            f"[yellow]late:[/] {', '.join(result.late)}: MLflow is down; the reconciler updates "
            "it when MLflow is back"
        )
    return outcome


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
    help="Promote without a passing verdict. Stores a waiver with the reason.",
)
@click.option("--reason", metavar="TEXT", help="Why the gates are waived (with --force).")
@json_option
@state_option
def command(
    version: str,
    alias: str,
    strategy: Strategy,
    force: bool,
    reason: str | None,
    as_json: bool,
    state: State,
) -> str:
    """Move a version to production, everywhere or nowhere.

    The version needs a passing verdict for exactly its bundle. Every worker loads it next to the
    one that it serves. If one worker refuses, nothing changes.
    """
    if force and not (reason or "").strip():
        raise SettingsError("--force needs --reason TEXT: the waiver stores the reason")
    if reason and not force:
        raise SettingsError("--reason is valid only with --force")
    started = time.monotonic()
    result = promote_version(state, PromotionOptions(version, strategy, reason))
    return report(result, time.monotonic() - started, as_json)


if __name__ == "__main__":
    run(command)
