"""Moves a version to production: every worker serves it afterwards, or nothing has changed and the
reason is written down.
"""

import asyncio
import getpass
import json
import os
import time
import uuid
from dataclasses import asdict, replace
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
from fraudops.validation.gates import GateResult, GateSettings
from fraudops.wiring import PromotionContext, open_promotion_context
from jobs.on_cluster import on_cluster
from jobs.runner import json_option, notices, output, print_json, run, state_option


def who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def say(text: str) -> None:
    notices.print(f"[dim]{text}[/]")


def promote_version(
    state: State,
    version: str,
    *,
    reason: str | None = None,
    force: bool = False,
    strategy: Strategy = "broadcast",
    first_only: bool = False,
) -> PromotionResult:
    """The whole promotion;

    `reason` with `force` writes a waiver for exactly this version's digest first, `first_only`
    refuses where a version serves.

    Raises StoreDownError, UnknownVersionError.
    """
    settings = PromoteJobSettings.from_environment()

    async def go() -> PromotionResult:
        async with open_promotion_context(settings, state, say) as context:

            async def choose(record: ServingRecord) -> PromotionCandidate:
                if first_only and record.current:
                    raise RefusedError(f"version {record.current.version} serves already")
                candidate = context.registry.find(version)
                if force and candidate.digest:
                    candidate = _waive(context, candidate, candidate.digest, reason or "")
                limits = GateSettings(**settings.gates.model_dump())
                return admit(
                    candidate,
                    record,
                    strategy,
                    lambda admitted: _compare_again(context, admitted, record, limits),
                    settings.environment,
                )

            named = "" if version == LATEST else version
            request = PromotionRequest(
                settings.request_id or str(uuid.uuid4()), who(), choose, named, strategy
            )
            return await context.promoter().run(request)

    return asyncio.run(go())


def _waive(
    context: PromotionContext, version: ModelVersion, digest: str, reason: str
) -> ModelVersion:
    waiver = {
        "digest": digest,
        "reason": reason,
        "who": who(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    context.registry.set_tag(version.version, TAG_WAIVER, json.dumps(waiver))
    return replace(version, waiver=waiver)


def _compare_again(
    context: PromotionContext, candidate: ModelVersion, record: ServingRecord, limits: GateSettings
) -> list[GateResult]:
    from fraudops.validation.verdict import recompare

    if record.current is None:
        return []
    return recompare(
        context.registry, candidate, context.registry.version(record.current.version), limits
    )


def outcome_of(result: PromotionResult, seconds: float) -> str:
    """One line of what happened, or the error whose exit code it has."""
    if result.outcome in ("done", "unchanged"):
        done = (
            "serves on every worker"
            if result.outcome == "done"
            else "is in production already: nothing was pushed"
        )
        return f"version {result.version} {done} (epoch {result.epoch}, {seconds:.1f} s)"
    serves = (
        f"version {result.version} serves (epoch {result.epoch})"
        if result.version
        else "no model serves"
    )
    if result.outcome == "unconfirmed":
        raise StoreDownError(
            f"unconfirmed: the record names version {result.version} (epoch {result.epoch}), but {result.reason}; see `fraudops status`"
        )
    raise RefusedError(f"{result.outcome}: {result.reason}; {serves}")


def report(result: PromotionResult, seconds: float, as_json: bool) -> str:
    """Prints the outcome, and gives it as one line or raises the error whose exit code it has."""
    if as_json:
        print_json(asdict(result) | {"seconds": round(seconds, 3)})
    said = outcome_of(result, seconds)
    if not as_json:
        output.print(said)
    if result.late:
        notices.print(
            f"[yellow]late:[/] {', '.join(result.late)}: MLflow is away; the reconciler writes it when it is back"
        )
    return said


@on_cluster("promote")
@click.command(name="promote")
@click.option("--version", required=True, metavar="N", help="The version to promote, or `latest`.")
@click.option(
    "--alias",
    type=click.Choice(["production"]),
    default="production",
    show_default=True,
    help="Where to.",
)
@click.option(
    "--strategy",
    type=click.Choice(["broadcast", "rollout"]),
    default="broadcast",
    show_default=True,
    help="A change of schema goes by rollout.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Promote without a passing verdict; writes a waiver with the reason.",
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

    The version needs a passing verdict for exactly its bundle. Every worker prepares it beside
    the one it serves; one refusal, and nothing has changed.
    """
    if force and not (reason or "").strip():
        raise SettingsError("--force needs --reason TEXT: it is kept in the waiver")
    if reason and not force:
        raise SettingsError("--reason belongs to --force")
    started = time.monotonic()
    result = promote_version(state, version, reason=reason, force=force, strategy=strategy)
    return report(result, time.monotonic() - started, as_json)


if __name__ == "__main__":
    run(command)
