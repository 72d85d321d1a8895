"""A version under validation: its bundle opened, the test rows it never saw, and everything the
gates want to know of it. Heavy to import.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fraudops.datasets import Dataset, class_weights, load, row_hashes, split
from fraudops.errors import BundleError, SettingsError, UnknownVersionError
from fraudops.model.costs import Costs
from fraudops.model.manifest import PIPELINE, TRAIN_ROWS, Interval, Manifest
from fraudops.model.metrics import evaluate
from fraudops.model.pipeline_file import load_pipeline
from fraudops.model.scorer import Scorer, open_scorer
from fraudops.model.verification import read_reference_rows, tolerance, verify_bundle
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

Floats = NDArray[np.float64]
TIMED_ROWS = 200
WARM_UP_ROWS = 20


@dataclass(frozen=True)
class Candidate:
    """A version whose bundle is sound: `pipeline` came through the trusted loader, `scorer` is what
    would serve.
    """

    version: ModelVersion
    folder: Path
    manifest: Manifest
    pipeline: Any
    scorer: Scorer


@dataclass(frozen=True)
class TestData:
    """The test part, weighted to `prevalence`;

    `as_trained` is whether the file is the very one that training read.
    """

    __test__ = False  # not a pytest class

    rows: Dataset
    weights: Floats
    prevalence: float | None
    method: str
    as_trained: bool


@dataclass(frozen=True)
class Measurement:
    """`probability` (n,) is the compiled scorer's, `seen` counts test rows among the `trained`
    ones, `median_ms` is the median of scoring one row.
    """

    probability: Floats
    metrics: dict[str, Interval]
    parity: Parity
    seen: int
    trained: int
    median_ms: float
    timed: int


def open_candidate(registry: Registry, version: ModelVersion, folder: Path) -> Candidate:
    """Downloads and verifies the bundle into `folder`.

    Raises BundleError naming what is not as it was registered, or may not be opened.
    """
    if version.digest is None:
        raise BundleError(
            f"version {version.version} was not registered by `fraudops train`: it has no bundle to validate"
        )
    registry.download_bundle(version, folder)
    manifest = verify_bundle(folder, version.digest)
    if manifest.schema_fingerprint != version.schema_fingerprint:
        raise BundleError(
            f"version {version.version} is tagged with another schema than its bundle has: register it again"
        )
    return Candidate(
        version, folder, manifest, load_pipeline(folder / PIPELINE), open_scorer(folder)
    )


def load_test_data(
    manifest: Manifest, source: str | None, schema: Path | None, prevalence: float | None
) -> TestData:
    """The test part of the data that training read, or of `source`, split as training split it.

    Raises SettingsError, DataError.
    """
    if schema is not None and load_schema(schema).fingerprint != manifest.schema_fingerprint:
        raise SettingsError(
            f"{schema} is not the schema that this version was trained with ({manifest.feature_schema.name!r}): leave --schema out"
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
    """None is the packaged sample."""
    if manifest.dataset.sample:
        return None
    if not Path(manifest.dataset.source).is_file():
        raise SettingsError(
            f"the data of this version, {manifest.dataset.source}, is not here: give the file with --data FILE"
        )
    return manifest.dataset.source


def measure(candidate: Candidate, data: TestData, settings: GateSettings) -> Measurement:
    """Scores the test rows with pipeline and scorer. Raises BundleError when either cannot."""
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
    """Scorer against pipeline on the test rows, and the pipeline against its own stored scores:
    serving trusts those.
    """
    reference = read_reference_rows(candidate.folder, candidate.manifest)
    expected = _pipeline_probability(candidate.pipeline, np.vstack([x, reference[:, :-1]]))
    given, threshold = np.concatenate([scored, reference[:, -1]]), candidate.manifest.threshold
    mismatches = int(((given >= threshold) != (expected >= threshold)).sum())
    return Parity(
        float(np.abs(given - expected).max()), tolerance(candidate.manifest), mismatches, len(given)
    )


def _pipeline_probability(pipeline: Any, x: Floats) -> Floats:
    try:
        probability = np.asarray(pipeline.predict_proba(x), dtype=np.float64)
    except (AttributeError, TypeError, ValueError, IndexError) as error:
        raise BundleError(
            f"{PIPELINE} cannot score rows of {x.shape[1]} features ({type(error).__name__}): train the version again"
        ) from error
    if probability.shape != (len(x), 2):
        raise BundleError(
            f"{PIPELINE} answers in the shape {probability.shape} where a probability of each of two classes belongs"
        )
    return probability[:, 1]


def _median_ms(scorer: Scorer, x: Floats) -> tuple[float, int]:
    rows = x[:TIMED_ROWS].tolist()
    for row in rows[:WARM_UP_ROWS]:
        scorer.score(row)
    return float(np.median([_milliseconds(scorer.score, row) for row in rows])), len(rows)


def _milliseconds(score: Callable[[list[float]], float], row: list[float]) -> float:
    started = time.perf_counter()
    score(row)
    return (time.perf_counter() - started) * 1000


def read_train_rows(folder: Path) -> NDArray[np.uint64]:
    """Raises BundleError."""
    try:
        rows = np.load(folder / TRAIN_ROWS, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{TRAIN_ROWS} cannot be read: {error}") from error
    if not isinstance(rows, np.ndarray) or rows.dtype != np.uint64 or rows.ndim != 1:
        raise BundleError(f"{TRAIN_ROWS} must hold one uint64 for each row that training saw")
    return rows


def production_probability(
    registry: Registry, production: Production, cache: Path, folder: Path, x: Floats
) -> Floats:
    """What the serving version's compiled scorer says of these rows; its bundle comes from the
    local cache, else from the registry.

    Raises UnknownVersionError or BundleError when its bundle is not to be had as it was
    promoted, StoreDownError when MLflow is away.
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
    """The comparison with what serves, on the candidate's test rows; a comparison that was due and
    cannot be made fails. Raises StoreDownError.
    """
    reason = nothing_to_compare(
        candidate.manifest.schema_fingerprint, candidate.version.digest, production
    )
    if reason is not None or production is None:
        return not_compared(reason or "", settings, passed=True)
    try:
        theirs = production_probability(
            registry, production, cache, candidate.folder.with_name("production"), data.rows.x
        )
    except (UnknownVersionError, BundleError) as error:
        return not_compared(
            f"version {production.version} in production cannot be scored: {error}",
            settings,
            passed=False,
        )
    return compare(scores_of(candidate, data, probability), theirs, production.version, settings)


def scores_of(candidate: Candidate, data: TestData, probability: Floats) -> TestScores:
    return TestScores(
        data.rows.y, data.weights, probability, data.rows.digest, candidate.version.digest or ""
    )


def checks(
    candidate: Candidate, data: TestData, measured: Measurement, settings: GateSettings
) -> list[GateResult]:
    """Every gate that needs no other version."""
    return [
        intact(None, len(candidate.manifest.files)),
        *discriminates(measured.metrics, settings, data.prevalence),
        untrained_on_test_rows(measured.seen, len(data.rows), measured.trained),
        *scores_as_its_pipeline(measured.parity, settings),
        fast_enough(measured.median_ms, measured.timed, settings),
    ]
