"""Move a version to production.

Then every worker serves it, or the version from before serves, or the message names the pods that
are behind. The table `promotions` has the outcome and its reason.
"""

import asyncio
import os
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from fraudops.errors import FraudopsError, RefusedError, SettingsError, UnknownVersionError
from fraudops.promotion.admission import Nominee, SealedFacts, Trust, admit
from fraudops.promotion.attempt import Strategy
from fraudops.promotion.changes import Promote
from fraudops.promotion.request import PromotionRequest, PromotionResult
from fraudops.promotion.requester import Requester
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.registry import LATEST, ModelVersion, Registry
from fraudops.registry.verdicts import read_signed
from fraudops.settings import PromoteJobSettings
from fraudops.signing.credentials import Credentials, PromotionTerms, accept
from fraudops.signing.keys import PublicKeys
from fraudops.signing.verdicts import Verdict
from fraudops.state import State
from fraudops.validation.gates import GateResult
from fraudops.wiring import PromotionContext, open_promotion_context
from jobs.on_cluster import on_cluster
from jobs.reports.promotion import ending, late_notices
from jobs.requests import approved, check_names_a_version, check_strategy, requester
from jobs.runner import (
    if_epoch_option,
    json_option,
    output,
    print_json,
    run,
    say,
    state_option,
    target_options,
    warn,
)
from jobs.waive import WaiverOptions, signed_waiver

# The file that the step `waive` of a Job has written.
WAIVER_VARIABLE = "FRAUDOPS_WAIVER"

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
    """The gate of one promotion. The promoter calls it while it holds the promotion lock.

    `request` is the id of the promotion, for which alone a waiver is valid.
    """

    registry: Registry
    settings: PromoteJobSettings
    state: State
    options: PromotionOptions
    who: Requester
    request: str
    keys: PublicKeys

    async def decide(self, record: ServingRecord) -> Promote:
        """Return the promotion of the version.

        Raises RefusedError with the reason, UnknownVersionError or StoreDownError.
        """
        # Calls of the registry and the comparison block for seconds. On the event loop they would
        # stop the renewal of the lock, and another promoter would take it.
        return await asyncio.to_thread(self._decide, record)

    def _decide(self, record: ServingRecord) -> Promote:
        # Here, because a try whose rollout is committed must finish also if it is not allowed now.
        check_strategy(self.settings, self.options.strategy)
        version = self.registry.find(self.options.version)
        terms = PromotionTerms(
            self.settings.model_name,
            self.request,
            datetime.now(UTC),
            waivers_allowed=self.settings.signing.waivers == "allowed",
        )
        return admit(
            Nominee(version, self._credentials(version), lambda: self._facts(version)),
            record,
            self.options.strategy,
            recompare=lambda version, verdict: self._compare_again(version, verdict, record),
            trust=Trust(self.keys, terms, self.settings.environment),
        )

    def _credentials(self, version: ModelVersion) -> Credentials:
        if version.digest is None:
            return Credentials()
        return Credentials(
            signed_verdict=read_signed(self.registry, version), signed_waiver=self._waiver(version)
        )

    def _waiver(self, version: ModelVersion) -> str | None:
        """Return the signed waiver of this promotion, or None without `--force`.

        In a Job another container has signed it. On one machine this process does it itself.
        """
        reason = self.options.waiver_reason
        if reason is None:
            return None
        if file := os.environ.get(WAIVER_VARIABLE):
            return read_waiver_file(Path(file))
        options = WaiverOptions(version.version, reason, self.who.identity, self.request)
        return signed_waiver(self.settings, self.state, options)

    def _facts(self, version: ModelVersion) -> SealedFacts:
        """Read the manifest of a version that no verdict describes. Raises BundleError."""
        from fraudops.model.manifest import MANIFEST, parse_manifest

        data = self.registry.download(version, f"bundle/{MANIFEST}")
        manifest = parse_manifest(data or b"", version.digest)
        return SealedFacts(manifest.schema_fingerprint, manifest.dataset.sample)

    def _compare_again(
        self, version: ModelVersion, verdict: Verdict, record: ServingRecord
    ) -> list[GateResult]:
        """Compare the version with the one that serves now, which the verdict may not know."""
        from fraudops.validation.verdict import ScoredVersion, recompare

        current = record.current
        if current is None:
            return []
        try:
            serving = self.registry.version(current.version)
        except UnknownVersionError as error:
            raise RefusedError(
                f"production has moved to version {current.version} since the verdict, and "
                "the registry no longer has that version to compare with; "
                "`--force --reason …` waives the comparison"
            ) from error
        return recompare(
            self.registry,
            ScoredVersion(version, verdict),
            ScoredVersion(serving, self._serving_verdict(current, version)),
            self.settings.gates.as_gate_settings(),
        )

    def _serving_verdict(self, current: ServingEntry, version: ModelVersion) -> Verdict:
        """Return the serving version's signed verdict, which seals its test scores."""
        try:
            verdict = accept(
                current.credentials, current.version, current.digest, self.keys
            ).verdict
        except RefusedError:
            verdict = None
        if verdict is None or verdict.scores_digest is None:
            raise RefusedError(
                f"production has moved to version {current.version} since the verdict, and no "
                "signed verdict seals the test scores of that version: "
                f"run `fraudops validate --version {version.version}` again"
            )
        return verdict


def read_waiver_file(path: Path) -> str:
    """Return the signed waiver in a file. Raises SettingsError."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"the signed waiver {path} cannot be read ({error}): the container `waive` of a "
            f"promotion's Job writes it; on one machine unset {WAIVER_VARIABLE}"
        ) from error


def promote_version(state: State, options: PromotionOptions) -> PromotionResult:
    """Run a promotion. Raises StoreDownError or UnknownVersionError."""
    return asyncio.run(_promote(state, options))


async def _promote(state: State, options: PromotionOptions) -> PromotionResult:
    settings = PromoteJobSettings.from_environment()
    check_names_a_version(settings, options.version)
    who, request_id = requester(settings), settings.request_id or str(uuid.uuid4())
    keys = PublicKeys.read(settings.signing.public_keys_of(state))
    async with open_promotion_context(settings, state, say) as context:
        gate = PromotionGate(context.registry, settings, state, options, who, request_id, keys)
        request = PromotionRequest(
            id=request_id,
            requested_by=who.name,
            actor=who.actor,
            authenticated=who.authenticated,
            decide=gate.decide,
            # The number of `latest` is not known before the gate looks it up.
            version="" if options.version == LATEST else options.version,
            strategy=options.strategy,
            if_epoch=options.if_epoch,
        )
        return await carry_out(context, await approved(context, settings, request))


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
    help="Promote without a passing verdict. The reason is stored with this promotion in a signed "
    "waiver, and the next promotion of the version needs its own.",
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
