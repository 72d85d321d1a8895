"""How good probabilities are, with bootstrap intervals: plain arrays in, plain values out.

Every row has a weight (fraudops.datasets.class_weights), which brings enriched data back to its
natural share of fraud. The bootstrap draws frauds and genuine rows each from their own kind (a
stratified percentile bootstrap, Efron & Tibshirani 1993), so that no resample is without frauds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fraudops.errors import DataError
from fraudops.model.costs import DEFAULT_COSTS, Costs
from fraudops.model.manifest import Interval

Floats = NDArray[np.float64]
Metric = Literal["roc_auc", "average_precision"]

FIXED_PRECISION = 0.80
CALIBRATION_BINS = 10
SMALLEST_THRESHOLD = 1e-12
# The largest resample matrix held at once, in cells of 8 bytes.
CELLS = 4_000_000


@dataclass(frozen=True)
class Curve:
    """Weighted counts from the highest probability downwards, one row a resample: shapes
    (resamples, steps).
    """

    true_positives: Floats
    false_positives: Floats

    @property
    def recall(self) -> Floats:
        return self.true_positives / self.true_positives[:, -1:]

    @property
    def false_positive_rate(self) -> Floats:
        return self.false_positives / self.false_positives[:, -1:]

    @property
    def precision(self) -> Floats:
        """0 where a resample has no row yet."""
        flagged = self.true_positives + self.false_positives
        return np.divide(
            self.true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0
        )

    def roc_auc(self) -> Floats:
        """Area by trapezoids, so that ties count half (Hanley & McNeil 1982)."""
        recall = self.recall
        area: Floats = ((recall + _shifted(recall)) * _steps(self.false_positive_rate)).sum(
            axis=1
        ) / 2
        return area

    def average_precision(self) -> Floats:
        """Sum of precision times the step of recall, without interpolation, as scikit-learn has it."""
        total: Floats = (_steps(self.recall) * self.precision).sum(axis=1)
        return total

    def recall_at_precision(self, precision: float) -> Floats:
        """The largest recall whose precision is at least this; 0 where none is."""
        best: Floats = np.where(self.precision >= precision, self.recall, 0.0).max(axis=1)
        return best


class Ranking:
    """Rows ordered by falling probability; equal probabilities form one step.

    Only steps that hold a fraud, or that stand before one, are kept: between them a curve runs
    straight on, and no metric and no least cost lies there.
    """

    def __init__(self, y: NDArray[Any], probability: Floats) -> None:
        self.order = np.argsort(-probability, kind="stable")
        ranked = probability[self.order]
        self.fraud = (y[self.order] == 1).astype(np.float64)
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        holds_fraud = np.diff(np.cumsum(self.fraud)[ends], prepend=0.0) > 0
        kept = np.flatnonzero(holds_fraud | np.append(holds_fraud[1:], True))
        self._starts = np.concatenate([[0], ends[kept][:-1] + 1])
        # The threshold that flags nothing, then those that flag up to and including each kept step:
        # halfway to the next lower probability.
        padded = np.concatenate([[1.0], ranked[ends], [0.0]])
        self.cuts: Floats = ((padded[:-1] + padded[1:]) / 2)[np.concatenate([[0], kept + 1])]

    def curve(self, weights: Floats) -> Curve:
        """`weights` (resamples, n) in the rows' own order."""
        ranked = weights[:, self.order]
        positives = self.cumulated(ranked * self.fraud)
        return Curve(positives, self.cumulated(ranked) - positives)

    def cumulated(self, ranked: Floats) -> Floats:
        """Sums of (resamples, n) ranked values from the top to the end of each kept step."""
        return np.cumsum(np.add.reduceat(ranked, self._starts, axis=1), axis=1)


def curve(y: NDArray[Any], probability: Floats, weights: Floats) -> Curve:
    """The curve of the rows as they are (one resample)."""
    _check(y, probability, weights)
    return Ranking(y, probability).curve(weights[None, :])


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
    """Each metric with its 95 % interval; all arrays (n,).

    Raises DataError when the rows hold one class only or a probability is not finite.
    """
    _check(y, probability, weights, amount)
    ranking = Ranking(y, probability)
    rows = _row_terms(y, probability, amount, threshold, costs)
    parts = [
        _metrics(ranking.curve(drawn), drawn @ rows)
        for drawn in _drawn(y, weights, seed, resamples)
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
    """Candidate minus production on the same rows, both from the same resamples.

    Raises DataError as `evaluate`.
    """
    _check(y, candidate, weights, production)
    measure: Callable[[Curve], Floats] = (
        Curve.roc_auc if metric == "roc_auc" else Curve.average_precision
    )
    first, second = Ranking(y, candidate), Ranking(y, production)
    return _interval(
        np.concatenate(
            [
                measure(first.curve(drawn)) - measure(second.curve(drawn))
                for drawn in _drawn(y, weights, seed, resamples)
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
    """The median over the resamples of the threshold with the least cost, to six significant
    digits, in (0, 1]. Raises DataError as `evaluate`.
    """
    _check(y, probability, weights, amount)
    ranking = Ranking(y, probability)
    missable = ranking.fraud * (amount + costs.fee)[ranking.order]
    chosen = []
    for drawn in _drawn(y, weights, seed, resamples):
        ranked = drawn[:, ranking.order]
        saved = ranking.cumulated(ranked * missable)
        excess = (
            ranking.cumulated(ranked) * costs.review - saved
        )  # above the cost of flagging nothing
        chosen.append(
            ranking.cuts[np.argmin(np.column_stack([np.zeros(len(excess)), excess]), axis=1)]
        )
    return max(float(f"{np.median(np.concatenate(chosen)[1:]):.6g}"), SMALLEST_THRESHOLD)


def _drawn(y: NDArray[Any], weights: Floats, seed: int, resamples: int) -> Iterator[Floats]:
    """First the weights as they are (1, n), then the resampled ones in chunks (k, n)."""
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
    """How often each of `size` rows is drawn when `size` are drawn with replacement: (resamples,
    size).
    """
    drawn = random.integers(0, size, (resamples, size)) + np.arange(resamples)[:, None] * size
    return np.bincount(drawn.ravel(), minlength=resamples * size).reshape(resamples, size)


def _row_terms(
    y: NDArray[Any], probability: Floats, amount: Floats, threshold: float, costs: Costs
) -> Floats:
    """What a row adds to each weighted sum: (n, 5 + bins)."""
    fraud, flagged = (y == 1).astype(np.float64), (probability >= threshold).astype(np.float64)
    cost = np.where(flagged == 1, costs.review, fraud * (amount + costs.fee))
    edges = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = (edges[:, None] == np.arange(CALIBRATION_BINS)) * (probability - fraud)[:, None]
    return np.column_stack([np.ones(len(y)), fraud, flagged, fraud * flagged, cost, gaps])


def _metrics(ranks: Curve, sums: Floats) -> dict[str, Floats]:
    """One value a resample; the calibration error is the expected calibration error over
    equal-width bins (Naeini et al. 2015).
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
    """The first value with the 2.5 and 97.5 percentiles of the others."""
    lower, upper = (
        np.percentile(values[1:], [2.5, 97.5]) if len(values) > 1 else (values[0], values[0])
    )
    return Interval(float(values[0]), float(lower), float(upper))


def _shifted(values: Floats) -> Floats:
    return np.concatenate([np.zeros((len(values), 1)), values[:, :-1]], axis=1)


def _steps(values: Floats) -> Floats:
    return np.diff(values, axis=1, prepend=0.0)


def _check(y: NDArray[Any], probability: Floats, *others: Floats) -> None:
    if any(array.shape != y.shape for array in (probability, *others)):
        raise ValueError("labels, probabilities, weights and amounts must have one length")
    frauds = int((y == 1).sum())
    if frauds in (0, len(y)):
        raise DataError(
            f"{len(y)} rows with {frauds} frauds cannot be evaluated: both frauds and genuine rows are needed; use more data"
        )
    if not np.isfinite(probability).all():
        raise DataError("a probability is not a finite number: the model cannot be evaluated")
