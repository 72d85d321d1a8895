"""A version under validation: its bundle, its test rows, and the measurements for the gates.

The module is heavy to import: it needs scikit-learn, skops and pandas.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from fraudops.datasets import Dataset, class_weights, load, row_hashes, split
from fraudops.errors import BundleError, SettingsError, UnknownVersionError
from fraudops.model.costs import Costs
from fraudops.model.manifest import PIPELINE, Interval, Manifest
from fraudops.model.metrics import evaluate
from fraudops.model.pipeline_file import checked_probabilities, load_pipeline
from fraudops.model.ranking import Floats
from fraudops.model.scorer import Scorer, open_scorer
from fraudops.model.verification import (
    read_reference_rows,
    read_train_rows,
    tolerance,
    verify_bundle,
)
from fraudops.registry import ModelVersion, Registry
from fraudops.schema import load_schema
from fraudops.validation.gates import (
    GateResult,
    GateSettings,
    Parity,
    discriminates,
    fast_enough,
    intact,
    not_compared,
    scores_as_its_pipeline,
    untrained_on_test_rows,
)
from fraudops.validation.verdict import Production, TestScores, compare, nothing_to_compare

TIMED_ROWS = 200
WARM_UP_ROWS = 20


@dataclass(frozen=True)
class Candidate:
    """A version with a verified bundle.

    The allow-list of fraudops.model.pipeline_file admitted `pipeline`. `scorer` is the model that
    serves after a promotion.
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


@dataclass(frozen=True)
class Measurement:
    """Measurements of a candidate on its test rows.

    `probability` (n,) is from the compiled scorer. `trained` is the number of rows that training
    saw, and `seen` is the number of test rows among them. `median_ms` is the median time of scoring
    one row, over `timed` rows.
    """

    probability: Floats
    metrics: dict[str, Interval]
    parity: Parity
    seen: int
    trained: int
    median_ms: float
    timed: int


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
    registry.download_bundle(version, folder)
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


def measure(candidate: Candidate, data: TestData, settings: GateSettings) -> Measurement:
    """Score the test rows with pipeline and scorer, and measure the scores.

    Raises BundleError when the pipeline cannot score them or a file of the bundle is malformed.
    """
    x, manifest = data.rows.x, candidate.manifest
    probability = candidate.scorer.score_many(x)
    metrics = evaluate(
        data.rows.y,
        probability,
        data.weights,
        data.rows.amount,
        manifest.threshold,
        _costs(manifest),
        settings.seed,
        settings.resamples,
    )
    trained = read_train_rows(candidate.folder)
    median_ms, timed = _median_ms(candidate.scorer, x)
    seen = int(np.isin(row_hashes(data.rows), trained).sum())
    return Measurement(
        probability,
        metrics,
        _parity(candidate, x, probability),
        seen,
        len(trained),
        median_ms,
        timed,
    )


def _costs(manifest: Manifest) -> Costs:
    policy = manifest.threshold_policy
    return Costs(float(policy.get("fee", Costs.fee)), float(policy.get("review", Costs.review)))


def _parity(candidate: Candidate, x: Floats, scored: Floats) -> Parity:
    """Compare the scorer with the pipeline on the test rows and on the reference rows.

    For the reference rows the bundle's stored probabilities take the place of the scorer's. The
    service compares its scorer with those, so they must be the pipeline's own.
    """
    reference = read_reference_rows(candidate.folder, candidate.manifest)
    expected = checked_probabilities(candidate.pipeline, np.vstack([x, reference[:, :-1]]))
    actual, threshold = np.concatenate([scored, reference[:, -1]]), candidate.manifest.threshold
    return Parity(
        difference=float(np.abs(actual - expected).max()),
        tolerance=tolerance(candidate.manifest),
        mismatches=int(((actual >= threshold) != (expected >= threshold)).sum()),
        rows=len(actual),
    )


def _median_ms(scorer: Scorer, x: Floats) -> tuple[float, int]:
    # Row by row: that is how most transactions arrive at the service.
    rows = x[:TIMED_ROWS].tolist()
    for row in rows[:WARM_UP_ROWS]:
        scorer.score(row)
    return float(np.median([_milliseconds(scorer.score, row) for row in rows])), len(rows)


def _milliseconds(score: Callable[[list[float]], float], row: list[float]) -> float:
    started = time.perf_counter()
    score(row)
    return (time.perf_counter() - started) * 1000


def production_probability(
    registry: Registry, production: Production, cache: Path, folder: Path, x: Floats
) -> Floats:
    """Return the probabilities (n,) of the serving version's compiled scorer for the rows `x`.

    Its bundle is read from the local cache, or else downloaded from the registry.

    Raises UnknownVersionError or BundleError when its bundle is missing or is not the promoted one,
    and StoreDownError when MLflow is down.
    """
    cached = cache / production.digest
    if not cached.is_dir():
        registry.download_bundle(registry.version(production.version), folder)
        cached = folder
    verify_bundle(cached, production.digest)
    return open_scorer(cached).score_many(x)


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

    The gates fail when a comparison is due but production cannot be scored. Raises StoreDownError.
    """
    reason = nothing_to_compare(
        candidate.manifest.schema_fingerprint, candidate.version.digest, production
    )
    if reason is not None or production is None:
        return not_compared(reason or "", settings, passed=True)
    try:
        serving = production_probability(
            registry, production, cache, candidate.folder.with_name("production"), data.rows.x
        )
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


def checks(
    candidate: Candidate, data: TestData, measured: Measurement, settings: GateSettings
) -> list[GateResult]:
    """Return the results of all gates that need no other version."""
    return [
        intact(None, len(candidate.manifest.files)),
        *discriminates(measured.metrics, settings, data.prevalence),
        untrained_on_test_rows(measured.seen, len(data.rows), measured.trained),
        *scores_as_its_pipeline(measured.parity, settings),
        fast_enough(measured.median_ms, measured.timed, settings),
    ]
