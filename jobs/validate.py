"""Puts a version through the gates and stores the verdict: five steps, each with what was found and
why it passed or not.
"""

import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fraudops import endpoints
from fraudops.errors import BundleError, FraudopsError, RefusedError, StoreDownError
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import ModelVersion, Registry
from fraudops.settings import ClusterSettings, ValidateJobSettings
from fraudops.state import State
from fraudops.validation.gates import GateResult, GateSettings, intact
from fraudops.validation.verdict import Production, store_scores, store_verdict, verdict
from jobs.on_cluster import on_cluster
from jobs.reports import validation
from jobs.runner import json_option, notices, output, print_json, run, state_option, where

if TYPE_CHECKING:
    from fraudops.validation.candidate import Measurement, TestData


@dataclass(frozen=True)
class DataOptions:
    """The test data that the command line names, where it names any."""

    source: str | None
    schema: Path | None
    prevalence: float | None


@dataclass(frozen=True)
class ValidationSite:
    """Where a version is judged: its registry, and what serves there."""

    registry: Registry
    state: State
    cluster: ClusterSettings


@dataclass
class ValidationFindings:
    """What the steps found so far; `gates` decide."""

    version: ModelVersion
    gates: list[GateResult]
    data: "TestData | None" = None
    measured: "Measurement | None" = None
    compared_to: Production | None = None


def validate_version(
    site: ValidationSite,
    version: str,
    options: DataOptions,
    settings: GateSettings,
    screen: validation.Screen,
) -> tuple[ValidationFindings, dict[str, Any]]:
    """The five steps; stores test scores and verdict, and gives the verdict too.

    Raises UnknownVersionError, DataError, StoreDownError; a bad bundle is a finding."""
    started = time.monotonic()
    found = ValidationFindings(site.registry.find(version), [])
    screen.version(found.version)
    with tempfile.TemporaryDirectory(prefix="fraudops-validate-") as folder:
        try:
            _take_steps(site, found, options, settings, screen, Path(folder))
        except BundleError as error:
            found.gates = [intact(str(error))]
            screen.broken(found.gates)
    stored = verdict(
        found.version.digest or "",
        found.data.rows.digest if found.data else None,
        found.gates,
        settings,
        found.compared_to,
        _now(),
    )
    store_verdict(site.registry, found.version, stored)
    screen.verdict(found.version, found.gates, time.monotonic() - started)
    return found, stored


def _take_steps(
    site: ValidationSite,
    found: ValidationFindings,
    options: DataOptions,
    settings: GateSettings,
    screen: validation.Screen,
    folder: Path,
) -> None:
    from fraudops.validation import candidate as steps  # scikit-learn, skops and pandas
    from fraudops.wiring import read_record

    registry, state = site.registry, site.state
    opened = steps.open_candidate(registry, found.version, folder / "candidate")
    found.data = data = steps.load_test_data(
        opened.manifest, options.source, options.schema, options.prevalence
    )
    screen.data(data)
    found.measured = measured = steps.measure(opened, data, settings)
    screen.metrics(opened.manifest, measured, data.prevalence)
    found.gates = steps.checks(opened, data, measured, settings)
    screen.checks(found.gates)
    found.compared_to = production_of(read_record(site.cluster, state))
    compared = steps.against_production(
        registry, opened, data, measured.probability, found.compared_to, state.bundles, settings
    )
    screen.comparison(compared, found.compared_to)
    found.gates += compared
    store_scores(registry, found.version, steps.scores_of(opened, data, measured.probability))


def production_of(record: ServingRecord) -> Production | None:
    current = record.current
    return (
        Production(current.version, current.digest, current.schema_fingerprint) if current else None
    )


def next_command(found: ValidationFindings, passed: bool, state: State) -> str:
    """What to type now, as it works here."""
    if not passed:
        return f"fraudops train{where(state)}"
    other = (
        found.compared_to is not None
        and found.compared_to.schema_fingerprint != found.version.schema_fingerprint
    )
    strategy = " --strategy rollout" if other else ""
    return f"fraudops promote --version {found.version.version} --alias production{strategy}{where(state)}"


def promote_now(state: State, version: str) -> tuple[dict[str, Any], FraudopsError | None]:
    """What became of the promotion, with the error to end with when it is not in production now."""
    from jobs.promote import promote_version

    try:
        result = promote_version(state, version, strategy="broadcast")
    except FraudopsError as error:
        return {
            "outcome": "refused" if isinstance(error, RefusedError) else "failed",
            "version": version,
            "reason": str(error),
        }, error
    if result.outcome in ("done", "unchanged"):
        return asdict(result), None
    kind = StoreDownError if result.outcome == "unconfirmed" else RefusedError
    return asdict(result), kind(
        f"the promotion of version {version} is {result.outcome}: {result.reason}"
    )


@on_cluster("validate")
@click.command(name="validate")
@click.option("--version", required=True, metavar="N", help="The version to validate, or `latest`.")
@click.option(
    "--data",
    "source",
    envvar="FRAUDOPS_DATA",
    metavar="FILE",
    help="CSV (also .gz) or Parquet. [env: FRAUDOPS_DATA; default: what the version was trained on]",
)
@click.option(
    "--schema",
    envvar="FRAUDOPS_SCHEMA",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Refuse a version that was trained with another schema.yaml. [env: FRAUDOPS_SCHEMA; default: the version's own]",
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
    """Put a version through the gates and store the verdict.

    The test data is the test part of the data that the version was trained on, unless --data
    names another file. Exit code 65: refused.
    """
    started = time.monotonic()
    settings = ValidateJobSettings.from_environment()
    site = ValidationSite(
        Registry(endpoints.mlflow_url(state), settings.model_name), state, settings.cluster
    )
    screen = validation.Screen(notices if as_json else output)
    found, stored = validate_version(
        site,
        version,
        DataOptions(source, schema, prevalence),
        GateSettings(**settings.gates.model_dump()),
        screen,
    )
    number, passed = found.version.version, bool(stored["passed"])
    following = next_command(found, passed, state)
    promotion, failure = promote_now(state, number) if passed and auto_promote else (None, None)
    if as_json:
        facts = validation.as_mapping(found.version, found.data, found.measured, stored)
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
    return f"version {number} passed {len(found.gates)} gates{' and is in production' if promotion else ''}"


def refusal(found: ValidationFindings, following: str) -> RefusedError:
    failed = ", ".join(gate.name for gate in found.gates if not gate.passed)
    return RefusedError(
        f"version {found.version.version} is refused ({failed}); the verdict is stored on it. Train another: {following}"
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    run(command)
