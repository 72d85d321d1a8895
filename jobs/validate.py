"""Check a version against the gates and store the verdict.

There are five steps. Each one prints what it found and why the gates passed or failed.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fraudops import endpoints
from fraudops.client import InferenceClient, ServedModelResponse
from fraudops.errors import BundleError, FraudopsError, RefusedError, SettingsError
from fraudops.model.manifest import MANIFEST, read_manifest
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import ModelVersion, Registry
from fraudops.registry.verdicts import read_signed
from fraudops.settings import ClusterSettings, ValidateJobSettings
from fraudops.signing.credentials import Credentials, accept
from fraudops.signing.keys import PrivateKey, PublicKeys, read_private_key
from fraudops.signing.verdicts import SignedVerdict, Verdict, sign_verdict
from fraudops.state import State
from fraudops.validation.gates import GateResult, GateSettings, intact
from fraudops.validation.verdict import (
    Findings,
    Production,
    shown,
    store_scores,
    store_verdict,
    verdict,
)
from jobs.on_cluster import on_cluster
from jobs.reports import validation
from jobs.reports.promotion import ending
from jobs.runner import (
    json_option,
    notices,
    output,
    print_json,
    retry_until,
    run,
    state_option,
    target_options,
)

if TYPE_CHECKING:
    from fraudops.validation.candidate import TestData
    from fraudops.validation.measurement import Measurement


# How long to wait until a pod says which version serves. A pod that is behind follows in seconds.
PODS_SECONDS = 60.0
# Name of the folder of the downloaded bundle.
CANDIDATE = "candidate"


@dataclass(frozen=True)
class DataOptions:
    """The test data of the command line; None means "as in training"."""

    source: str | None
    schema: Path | None
    prevalence: float | None


@dataclass(frozen=True)
class ValidationSite:
    """The registry of the version, and the installation whose model it is compared with.

    `key` signs the verdict. With `production_url` the pods say which version serves. Without it the
    serving record does.
    """

    registry: Registry
    state: State
    cluster: ClusterSettings
    key: PrivateKey
    production_url: str | None = None

    @classmethod
    def of(cls, settings: ValidateJobSettings, state: State) -> "ValidationSite":
        """Build the site. Raises SettingsError, also for a key that cannot be used.

        A caller builds it before minutes of work whose verdict could not be signed.
        """
        try:
            key = read_private_key(settings.signing.verdict_key_of(state))
        except SettingsError as error:
            raise SettingsError(
                f"{error}. `validate` signs its verdict with this key. The first `fraudops up` "
                "makes it; if it is lost, make a new one with `fraudops keys rotate verdict`. "
                "FRAUDOPS_SIGNING__VERDICT_KEY names another file"
            ) from error
        registry = Registry(endpoints.mlflow_url(state), settings.model_name)
        return cls(registry, state, settings.cluster, key, settings.production_url)

    def has_passed(self, version: ModelVersion) -> bool:
        """Whether the version has a passing verdict that this site's key has signed."""
        keys = PublicKeys((self.key.public,))
        try:
            signed = Credentials(signed_verdict=read_signed(self.registry, version))
            accept(signed, version.version, version.digest or "", keys)
        except RefusedError:
            return False
        return True


@dataclass
class ValidationFindings:
    """The findings of the steps so far. The version passes if every gate in `gates` passed."""

    version: ModelVersion
    gates: list[GateResult]
    data: "TestData | None" = None
    measured: "Measurement | None" = None
    compared_to: Production | None = None
    scores_digest: str | None = None


def validate_version(
    site: ValidationSite,
    version: str,
    options: DataOptions,
    settings: GateSettings,
    screen: validation.Screen,
) -> tuple[ValidationFindings, Verdict]:
    """Run the five steps, store test scores and signed verdict, return findings and verdict.

    A bad bundle is a finding and not an error. Raises UnknownVersionError, DataError or
    StoreDownError.
    """
    started = time.monotonic()
    found = ValidationFindings(site.registry.find(version), [])
    screen.version(found.version)
    with tempfile.TemporaryDirectory(prefix="fraudops-validate-") as folder:
        try:
            _take_steps(site, found, options, settings, screen, Path(folder))
        except BundleError as error:
            found.gates = [intact(str(error))]
            screen.broken(found.gates)
        judged, signed = _signed(site, found, settings, Path(folder) / CANDIDATE)
    store_verdict(site.registry, found.version, judged, signed)
    screen.verdict(found.version, found.gates, time.monotonic() - started)
    return found, judged


def _signed(
    site: ValidationSite, found: ValidationFindings, settings: GateSettings, bundle: Path
) -> tuple[Verdict, SignedVerdict | None]:
    """Return the verdict, and its signed form if the bundle has the manifest of its digest."""
    try:
        manifest = read_manifest(bundle, found.version.digest or "")
    except BundleError:
        manifest = None
    facts = Findings(
        found.gates,
        manifest,
        found.data.rows.digest if found.data else None,
        found.scores_digest,
        found.compared_to,
    )
    judged = verdict(site.registry.model, found.version, facts, settings, _now())
    if manifest is None:
        return judged, None
    return judged, sign_verdict((bundle / MANIFEST).read_bytes(), judged, site.key)


def _take_steps(
    site: ValidationSite,
    found: ValidationFindings,
    options: DataOptions,
    settings: GateSettings,
    screen: validation.Screen,
    folder: Path,
) -> None:
    # Imported here: it loads scikit-learn, skops and pandas, which --help does not need.
    from fraudops.validation import candidate, measurement

    registry, state = site.registry, site.state
    opened = candidate.open_candidate(registry, found.version, folder / CANDIDATE)
    found.data = data = candidate.load_test_data(
        opened.manifest, options.source, options.schema, options.prevalence
    )
    screen.data(data)
    found.measured = measured = measurement.measure(opened, data, settings)
    screen.metrics(opened.manifest, measured, data.prevalence)
    found.gates = measurement.checks(opened, data, measured, settings)
    screen.checks(found.gates)
    found.compared_to = serving_now(site)
    compared = candidate.against_production(
        registry, opened, data, measured.probability, found.compared_to, state.bundles, settings
    )
    screen.comparison(compared, found.compared_to)
    found.gates += compared
    found.scores_digest = store_scores(
        registry, found.version, candidate.scores_of(opened, data, measured.probability)
    )


def serving_now(site: ValidationSite) -> Production | None:
    """Return the version that serves, or None before the first promotion.

    Asks for a minute before it raises StoreDownError. A promotion compares again if the answer is
    no longer true then.
    """
    if site.production_url is None:
        from fraudops.wiring import read_record

        return production_of(read_record(site.cluster, site.state))
    # A container that signs verdicts has no account in Kubernetes, so it cannot read the record.
    deadline = time.monotonic() + PODS_SECONDS
    model = retry_until(partial(_ask_a_pod, site.production_url), deadline)
    if model.version is None:
        return None
    return Production(model.version, model.digest or "", model.schema_fingerprint or "")


def _ask_a_pod(url: str) -> ServedModelResponse:
    # A new connection each time: an open one would lead to the same pod, which may be behind.
    with InferenceClient(url) as pod:
        return pod.in_production()


def production_of(record: ServingRecord) -> Production | None:
    """Return the serving version in the form that the verdict stores."""
    current = record.current
    return (
        Production(current.version, current.digest, current.schema_fingerprint) if current else None
    )


def next_command(found: ValidationFindings, passed: bool, state: State) -> str:
    """Return the command to run next, with the options of this installation."""
    target = target_options(state)
    if not passed:
        return f"fraudops train{target}"
    new_schema = (
        found.compared_to is not None
        and found.compared_to.schema_fingerprint != found.version.schema_fingerprint
    )
    # A broadcast cannot change the schema.
    strategy = " --strategy rollout" if new_schema else ""
    version = found.version.version
    return f"fraudops promote --version {version} --alias production{strategy}{target}"


def promote_now(state: State, version: str) -> tuple[dict[str, Any], FraudopsError | None]:
    """Promote the version and return the outcome.

    The second value is the error to raise after the output, or None if the version now serves.
    """
    from jobs.promote import PromotionOptions, promote_version

    try:
        result = promote_version(state, PromotionOptions(version))
    except FraudopsError as error:
        outcome = "refused" if isinstance(error, RefusedError) else "failed"
        return {"outcome": outcome, "version": version, "reason": str(error)}, error
    try:
        ending(result, 0.0, target_options(state))
    except FraudopsError as error:
        return asdict(result), error
    return asdict(result), None


@on_cluster("validate")
@click.command(name="validate")
@click.option("--version", required=True, metavar="N", help="The version to validate, or `latest`.")
@click.option(
    "--data",
    "source",
    envvar="FRAUDOPS_DATA",
    metavar="FILE",
    help="CSV (also .gz) or Parquet. [env: FRAUDOPS_DATA; default: the version's training data]",
)
@click.option(
    "--schema",
    envvar="FRAUDOPS_SCHEMA",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Refuse a version that was trained with another schema.yaml. [env: FRAUDOPS_SCHEMA; "
    "default: the version's own]",
)
@click.option(
    "--prevalence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    metavar="SHARE",
    help="The natural share of fraud. [default: as in training]",
)
@click.option(
    "--auto-promote", is_flag=True, help="Promote the version to production when it passes."
)
@json_option
@state_option
def command(
    version: str,
    source: str | None,
    schema: Path | None,
    prevalence: float | None,
    auto_promote: bool,
    as_json: bool,
    state: State,
) -> str:
    """Check a version against the gates and store the verdict.

    The test data is the test part of the version's training data, unless --data names another
    file. Exits with 65 if the version is refused.
    """
    started = time.monotonic()
    settings = ValidateJobSettings.from_environment()
    if auto_promote and settings.production_url:
        raise SettingsError(
            "--auto-promote is not possible here, because this container may not promote: run "
            "`fraudops pipeline`, or `fraudops promote` afterwards"
        )
    site = ValidationSite.of(settings, state)
    screen = validation.Screen(notices if as_json else output)
    found, judged = validate_version(
        site,
        version,
        DataOptions(source, schema, prevalence),
        settings.gates.as_gate_settings(),
        screen,
    )
    number, passed = found.version.version, judged.passed
    following = next_command(found, passed, state)
    promotion, failure = promote_now(state, number) if passed and auto_promote else (None, None)
    if as_json:
        facts = validation.as_mapping(found.version, found.data, found.measured, shown(judged))
        print_json(
            facts
            | {
                "next": following,
                "promotion": promotion,
                "seconds": round(time.monotonic() - started, 3),
            }
        )
    if failure is not None:
        raise failure
    if not passed:
        raise refusal(found, following)
    screen.next(following, promotion)
    promoted = " and is in production" if promotion else ""
    return f"version {number} passed {len(found.gates)} gates{promoted}"


def refusal(found: ValidationFindings, following: str) -> RefusedError:
    """Return the error that names the failed gates and the next command."""
    failed = ", ".join(gate.name for gate in found.gates if not gate.passed)
    return RefusedError(
        f"version {found.version.version} is refused ({failed}); the verdict is stored with the "
        f"version. Train another one: {following}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    run(command)
