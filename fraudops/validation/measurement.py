"""Measurements of a candidate on its test rows, and the gates that they decide."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fraudops.datasets import row_hashes
from fraudops.model.costs import Costs
from fraudops.model.manifest import Interval, Manifest
from fraudops.model.metrics import evaluate
from fraudops.model.pipeline_file import checked_probabilities
from fraudops.model.ranking import Floats
from fraudops.model.scorer import Scorer
from fraudops.model.verification import read_reference_rows, read_train_rows, tolerance
from fraudops.validation.candidate import Candidate, TestData
from fraudops.validation.gates import (
    GateResult,
    GateSettings,
    Parity,
    discriminates,
    fast_enough,
    intact,
    scores_as_its_pipeline,
    untrained_on_test_rows,
)

TIMED_ROWS = 200
WARM_UP_ROWS = 20


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

    On the reference rows the stored probabilities of the bundle are compared, not the scorer's. The
    service checks its scorer against them, so they must be the pipeline's own.
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
