"""Rows ranked by probability, and the curves of that ranking: ROC, precision and recall."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fraudops.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Cumulative weighted counts from the highest probability downwards.

    Both arrays have the shape (resamples, steps).
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
        """Precision at each step; 0 while no row with a weight is flagged."""
        flagged = self.true_positives + self.false_positives
        return np.divide(
            self.true_positives, flagged, out=np.zeros_like(flagged), where=flagged > 0
        )

    def roc_auc(self) -> Floats:
        """Return the area under the ROC curve, (resamples,).

        The trapezoidal rule counts ties half (Hanley & McNeil 1982).
        """
        recall = self.recall
        area: Floats = ((recall + _shifted(recall)) * _steps(self.false_positive_rate)).sum(
            axis=1
        ) / 2
        return area

    def average_precision(self) -> Floats:
        """Return the sum of precision times the increase of recall, (resamples,).

        There is no interpolation, as in scikit-learn's `average_precision_score`.
        """
        total: Floats = (_steps(self.recall) * self.precision).sum(axis=1)
        return total

    def recall_at_precision(self, precision: float) -> Floats:
        """Return the largest recall at this precision or more, (resamples,); 0 if there is none."""
        best: Floats = np.where(self.precision >= precision, self.recall, 0.0).max(axis=1)
        return best


class Ranking:
    """Rows in order of falling probability; rows of equal probability form one step.

    A step is kept only if it, or the step after it, contains a fraud. Across the other steps a
    curve is a straight line. So they change no metric, and the least cost is at none of them.
    """

    def __init__(self, y: NDArray[Any], probability: Floats) -> None:
        self.order = np.argsort(-probability, kind="stable")
        ranked = probability[self.order]
        self.fraud = (y[self.order] == 1).astype(np.float64)
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        holds_fraud = np.diff(np.cumsum(self.fraud)[ends], prepend=0.0) > 0
        kept = np.flatnonzero(holds_fraud | np.append(holds_fraud[1:], True))
        self._starts = np.concatenate([[0], ends[kept][:-1] + 1])
        # The first threshold flags nothing. Each other one flags up to and including a kept step,
        # and is halfway to the next lower probability, so that rounding it moves no row across.
        padded = np.concatenate([[1.0], ranked[ends], [0.0]])
        self.cuts: Floats = ((padded[:-1] + padded[1:]) / 2)[np.concatenate([[0], kept + 1])]

    def curve(self, weights: Floats) -> Curve:
        """Return the curve for `weights` (resamples, n), in the original order of the rows."""
        ranked = weights[:, self.order]
        positives = self.cumulated(ranked * self.fraud)
        return Curve(positives, self.cumulated(ranked) - positives)

    def cumulated(self, ranked: Floats) -> Floats:
        """Return sums of (resamples, n) ranked values from the top to the end of each kept step."""
        return np.cumsum(np.add.reduceat(ranked, self._starts, axis=1), axis=1)


def curve(y: NDArray[Any], probability: Floats, weights: Floats) -> Curve:
    """Return the curve of the rows themselves, as a single resample.

    Raises DataError as `evaluate` does.
    """
    check_rows(y, probability, weights)
    return Ranking(y, probability).curve(weights[None, :])


def check_rows(y: NDArray[Any], probability: Floats, *others: Floats) -> None:
    """Check that the rows can be evaluated; all arrays have the shape (n,).

    Raises DataError when all rows are of one class or a probability is not finite, and ValueError
    when the lengths differ.
    """
    if any(array.shape != y.shape for array in (probability, *others)):
        raise ValueError("labels, probabilities, weights and amounts must have one length")
    frauds = int((y == 1).sum())
    if frauds in (0, len(y)):
        raise DataError(
            f"{len(y)} rows with {frauds} frauds cannot be evaluated: "
            "both frauds and genuine rows are needed; use more data"
        )
    if not np.isfinite(probability).all():
        raise DataError("a probability is not a finite number: the model cannot be evaluated")


def _shifted(values: Floats) -> Floats:
    return np.concatenate([np.zeros((len(values), 1)), values[:, :-1]], axis=1)


def _steps(values: Floats) -> Floats:
    return np.diff(values, axis=1, prepend=0.0)
