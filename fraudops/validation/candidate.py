"""A version under validation: its bundle, its test rows, and the comparison with production.

The module is heavy to import: it needs scikit-learn, skops and pandas.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from fraudops.datasets import Dataset, class_weights, load, split
from fraudops.errors import BundleError, SettingsError, UnknownVersionError
from fraudops.model.manifest import PIPELINE, Manifest
from fraudops.model.pipeline_file import load_pipeline
from fraudops.model.ranking import Floats
from fraudops.model.scorer import Scorer, open_scorer
from fraudops.model.verification import verify_bundle
from fraudops.registry import ModelVersion, Registry, verified_bundle
from fraudops.schema import load_schema
from fraudops.validation.gates import GateResult, GateSettings, not_compared
from fraudops.validation.verdict import Production, TestScores, compare, nothing_to_compare


@dataclass(frozen=True)
class Candidate:
    """A version with a verified bundle.

    `pipeline` holds only types on the allow-list of fraudops.model.pipeline_file. `scorer` is the
    model that serves after a promotion.
    """

    version: ModelVersion
    folder: Path
    manifest: Manifest
    pipeline: Any
    scorer: Scorer


@dataclass(frozen=True)
class TestData:
    """The test part of a data file, weighted to `prevalence`.

    `as_trained` is true when the file has the digest of the one that training read.
    """

    __test__ = False  # not a pytest class

    rows: Dataset
    weights: Floats
    prevalence: float | None
    method: str
    as_trained: bool


def open_candidate(registry: Registry, version: ModelVersion, folder: Path) -> Candidate:
    """Download the bundle of a version into `folder` and verify it.

    Raises BundleError, which names the file that differs from the registered one or cannot be
    opened.
    """
    if version.digest is None:
        raise BundleError(
            f"version {version.version} was not registered by `fraudops train`: "
            "it has no bundle to validate"
        )
    registry.download_bundle(version, folder, version.digest)
    manifest = verify_bundle(folder, version.digest)
    if manifest.schema_fingerprint != version.schema_fingerprint:
        raise BundleError(
            f"the registry tags version {version.version} with another schema than its bundle has: "
            "train the version again"
        )
    return Candidate(
        version, folder, manifest, load_pipeline(folder / PIPELINE), open_scorer(folder)
    )


def load_test_data(
    manifest: Manifest, source: str | None, schema: Path | None, prevalence: float | None
) -> TestData:
    """Return the test part of `source`, or else of the data that training read.

    The split is that of the training. Raises SettingsError, DataError.
    """
    if schema is not None and load_schema(schema).fingerprint != manifest.schema_fingerprint:
        raise SettingsError(
            f"{schema} is not the schema that this version was trained with "
            f"({manifest.feature_schema.name!r}): leave --schema out"
        )
    dataset = load(
        source or _recorded_source(manifest),
        manifest.feature_schema,
        prevalence or manifest.dataset.prevalence,
    )
    method = cast(Literal["time", "stratified"], manifest.parameters.get("split", "time"))
    test = split(dataset, method, int(manifest.parameters.get("seed", 7))).test
    return TestData(
        test,
        class_weights(test.y, dataset.prevalence),
        dataset.prevalence,
        method,
        dataset.digest == manifest.dataset.digest,
    )


def _recorded_source(manifest: Manifest) -> str | None:
    """Return the path of the data that training read, or None for the packaged sample."""
    if manifest.dataset.sample:
        return None
    if not Path(manifest.dataset.source).is_file():
        raise SettingsError(
            f"the data of this version, {manifest.dataset.source}, is not on this machine: "
            "give the file with --data FILE"
        )
    return manifest.dataset.source


def production_probability(
    registry: Registry, production: Production, cache: Path, x: Floats
) -> Floats:
    """Return the probabilities (n,) of the serving version's compiled scorer for the rows `x`.

    The bundle is read from the local cache, or else from the registry. Raises UnknownVersionError
    or BundleError when it is missing or is not the promoted one, and StoreDownError when MLflow is
    unavailable.
    """
    with verified_bundle(
        production.version, production.digest, cache, lambda: registry, verify_bundle
    ) as (folder, _manifest):
        return open_scorer(folder).score_many(x)


def against_production(
    registry: Registry,
    candidate: Candidate,
    data: TestData,
    probability: Floats,
    production: Production | None,
    cache: Path,
    settings: GateSettings,
) -> list[GateResult]:
    """Compare the candidate with the version that serves, on the candidate's test rows.

    The gates fail when the comparison is required and production's scorer fails on the rows. Raises
    StoreDownError.
    """
    reason = nothing_to_compare(
        candidate.manifest.schema_fingerprint, candidate.version.digest, production
    )
    if reason is not None or production is None:
        return not_compared(reason or "", settings, passed=True)
    try:
        serving = production_probability(registry, production, cache, data.rows.x)
    except (UnknownVersionError, BundleError) as error:
        return not_compared(
            f"version {production.version} in production cannot score the test rows: {error}",
            settings,
            passed=False,
        )
    return compare(scores_of(candidate, data, probability), serving, production.version, settings)


def scores_of(candidate: Candidate, data: TestData, probability: Floats) -> TestScores:
    return TestScores(
        data.rows.y, data.weights, probability, data.rows.digest, candidate.version.digest or ""
    )
