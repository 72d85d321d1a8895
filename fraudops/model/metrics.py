"""Metrics of predicted probabilities, with bootstrap intervals.

Each row has a weight (fraudops.datasets.class_weights). The weights restore the natural share of
fraud in data that was enriched with frauds. The bootstrap is a stratified percentile bootstrap
(Efron & Tibshirani 1993): it draws frauds and genuine rows separately, so that every resample
contains frauds.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fraudops.model.costs import DEFAULT_COSTS, Costs
from fraudops.model.manifest import Interval
from fraudops.model.ranking import Curve, Floats, Ranking, check_rows

Metric = Literal["roc_auc", "average_precision"]

FIXED_PRECISION = 0.80
CALIBRATION_BINS = 10
SMALLEST_THRESHOLD = 1e-12
# The largest resample matrix in memory, in cells of 8 bytes.
CELLS = 4_000_000


def evaluate(
    y: NDArray[Any],
    probability: Floats,
    weights: Floats,
    amount: Floats,
    threshold: float,
    costs: Costs = DEFAULT_COSTS,
    seed: int = 7,
    resamples: int = 200,
) -> dict[str, Interval]:
    """Return each metric with its 95 % interval; all arrays have the shape (n,).

    Raises DataError when the rows are all of one class or a probability is not finite.
    """
    check_rows(y, probability, weights, amount)
    ranking = Ranking(y, probability)
    rows = _row_terms(y, probability, amount, threshold, costs)
    parts = [
        _metrics(ranking.curve(drawn), drawn @ rows)
        for drawn in _resampled(y, weights, seed, resamples)
    ]
    return {name: _interval(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def paired_difference(
    y: NDArray[Any],
    candidate: Floats,
    production: Floats,
    weights: Floats,
    metric: Metric,
    seed: int = 7,
    resamples: int = 200,
) -> Interval:
    """Return the metric of the candidate minus that of production, on the same rows.

    Both use the same resamples, so that chance in the choice of rows mostly cancels out.
    Raises DataError as `evaluate` does.
    """
    check_rows(y, candidate, weights, production)
    measure: Callable[[Curve], Floats] = (
        Curve.roc_auc if metric == "roc_auc" else Curve.average_precision
    )
    first, second = Ranking(y, candidate), Ranking(y, production)
    return _interval(
        np.concatenate(
            [
                measure(first.curve(drawn)) - measure(second.curve(drawn))
                for drawn in _resampled(y, weights, seed, resamples)
            ]
        )
    )


def choose_threshold(
    y: NDArray[Any],
    probability: Floats,
    weights: Floats,
    amount: Floats,
    costs: Costs = DEFAULT_COSTS,
    seed: int = 7,
    resamples: int = 200,
) -> float:
    """Return a threshold with a low cost: the median of the best thresholds of the resamples.

    The best threshold of a resample is the one with the least cost. The result has six significant
    digits and lies in (0, 1]. Raises DataError as `evaluate` does.
    """
    check_rows(y, probability, weights, amount)
    ranking = Ranking(y, probability)
    missable = ranking.fraud * (amount + costs.fee)[ranking.order]
    chosen = []
    for drawn in _resampled(y, weights, seed, resamples):
        ranked = drawn[:, ranking.order]
        saved = ranking.cumulated(ranked * missable)
        # Costs relative to flagging nothing: that threshold has the cost 0, in the first column.
        excess = ranking.cumulated(ranked) * costs.review - saved
        chosen.append(
            ranking.cuts[np.argmin(np.column_stack([np.zeros(len(excess)), excess]), axis=1)]
        )
    # The first value belongs to the rows themselves and is no resample.
    return max(float(f"{np.median(np.concatenate(chosen)[1:]):.6g}"), SMALLEST_THRESHOLD)


def _resampled(y: NDArray[Any], weights: Floats, seed: int, resamples: int) -> Iterator[Floats]:
    """Yield the weights themselves (1, n), then resampled weights in chunks (k, n)."""
    yield weights[None, :]
    random = np.random.default_rng(seed)
    kinds = [np.flatnonzero(y == 1), np.flatnonzero(y != 1)]
    chunk = max(1, CELLS // len(y))
    for start in range(0, resamples, chunk):
        counts = np.empty((min(chunk, resamples - start), len(y)))
        for rows in kinds:
            counts[:, rows] = _multiplicities(random, len(rows), len(counts))
        yield counts * weights


def _multiplicities(random: np.random.Generator, size: int, resamples: int) -> NDArray[np.int64]:
    """Return how often each row is drawn, (resamples, size), in `size` draws with replacement."""
    # Each resample numbers its rows from another offset, so that one bincount counts all of them.
    drawn = random.integers(0, size, (resamples, size)) + np.arange(resamples)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size)


def _row_terms(
    y: NDArray[Any], probability: Floats, amount: Floats, threshold: float, costs: Costs
) -> Floats:
    """Return what each row adds to each weighted sum, (n, 5 + bins)."""
    fraud, flagged = (y == 1).astype(np.float64), (probability >= threshold).astype(np.float64)
    cost = np.where(flagged == 1, costs.review, fraud * (amount + costs.fee))
    # The last bin includes the probability 1.
    bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    # One column per bin. The weighted sum of a column is the gap between the mean probability and
    # the share of fraud in that bin, times the weight of the bin.
    gaps = (bins[:, None] == np.arange(CALIBRATION_BINS)) * (probability - fraud)[:, None]
    return np.column_stack([np.ones(len(y)), fraud, flagged, fraud * flagged, cost, gaps])


def _metrics(ranks: Curve, sums: Floats) -> dict[str, Floats]:
    """Return each metric with one value per resample.

    The calibration error is the expected calibration error over bins of equal width
    (Naeini et al. 2015).
    """
    weight, fraud, flagged, caught, cost = sums[:, :5].T
    return {
        "roc_auc": ranks.roc_auc(),
        "average_precision": ranks.average_precision(),
        "recall_at_precision_0_80": ranks.recall_at_precision(FIXED_PRECISION),
        "cost_per_transaction": cost / weight,
        "calibration_error": np.abs(sums[:, 5:]).sum(axis=1) / weight,
        "precision": np.divide(caught, flagged, out=np.zeros_like(caught), where=flagged > 0),
        "recall": caught / fraud,
        "decision_rate": flagged / weight,
    }


def _interval(values: Floats) -> Interval:
    """Return the first value with the 2.5 and 97.5 percentiles of the others."""
    lower, upper = (
        np.percentile(values[1:], [2.5, 97.5]) if len(values) > 1 else (values[0], values[0])
    )
    return Interval(float(values[0]), float(lower), float(upper))
