"""Drift, decided from plain values: the PSI of two samples, the verdict of a window, the decision
rate beside it.

What alarms is the score or a feature above its own threshold in two windows running. A share of
drifted features never does: one feature that breaks (a feed that stops, a currency that changes)
is enough to spoil a model, and a share of 0.5 would wait for fifteen of twenty-nine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import sqrt
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["none", "warning", "alarm", "not enough rows"]
SCORE = "fraud_probability"
BINS = 10
# A bin that one sample leaves empty counts as this share, else its logarithm would be infinite.
EMPTY_SHARE = 1e-4
NORMAL_975 = 1.959963984540054


@dataclass(frozen=True)
class ColumnDrift:
    """The PSI of one column (the score is the column `fraud_probability`) and the threshold that it
    is held against.
    """

    name: str
    psi: float
    threshold: float

    @property
    def exceeded(self) -> bool:
        return self.psi > self.threshold


@dataclass(frozen=True)
class DecisionRate:
    """The share of rows decided as fraud, with its 95 % interval, beside the share that the bundle
    expects at the natural prevalence.
    """

    value: float
    lower: float
    upper: float
    expected: float

    @property
    def position(self) -> Literal["below", "as expected", "above"]:
        """Where the interval lies relative to the expectation."""
        if self.upper < self.expected:
            return "below"
        return "above" if self.lower > self.expected else "as expected"


def psi(reference: NDArray[np.float64], current: NDArray[np.float64], bins: int = BINS) -> float:
    """Population stability index of two samples (n,) and (m,): sum over bins of (p - q) ln(p / q),
    p and q the shares of each sample.

    Bins are the reference's quantiles, as in credit scoring (Siddiqi, Credit Risk Scorecards,
    2006; Yurdakul, 2018): every bin starts with equal weight and the value does not change under
    a monotone transformation. Bins of equal width, Evidently's own `psi`, put nearly all of a
    heavy-tailed column into one bin: tripled amounts come out at 0.07 there, 0.41 here. Without
    drift the expected value is about (bins - 1)(1/n + 1/m).
    """
    edges = _edges(reference, bins)
    p, q = _shares(reference, edges), _shares(current, edges)
    return float(np.sum((p - q) * np.log(p / q)))


def _edges(reference: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Inner edges: quantiles, or for a column of few values one bin a value and one on either side,
    so that a constant which moves is seen.
    """
    distinct = np.unique(reference)
    if len(distinct) <= bins:
        return np.concatenate(([np.nextafter(distinct[0], -np.inf)], distinct))
    return np.unique(np.quantile(reference, np.linspace(0.0, 1.0, bins + 1)[1:-1]))


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return np.maximum(counts / len(values), EMPTY_SHARE)


def judge(
    rows: int, minimum_rows: int, columns: Sequence[ColumnDrift], exceeded_before: bool
) -> Verdict:
    """The verdict of one window, `exceeded_before` being whether the window before it exceeded as
    well.

    `columns` holds every feature and the score. The decision rate has no say: it moves with the
    fraud rate, which is not the model's fault.
    """
    if rows < minimum_rows:
        return "not enough rows"
    if not any(column.exceeded for column in columns):
        return "none"
    return "alarm" if exceeded_before else "warning"


def decision_rate(rows: int, positives: int, expected: float) -> DecisionRate:
    """The rate with its Wilson score interval (Wilson, 1927), which stays inside [0, 1] and is
    right for rare decisions, where p +- 1.96 s is not.
    """
    if rows == 0:
        return DecisionRate(0.0, 0.0, 1.0, expected)
    rate, z2 = positives / rows, NORMAL_975**2
    centre = (rate + z2 / (2 * rows)) / (1 + z2 / rows)
    margin = NORMAL_975 * sqrt(rate * (1 - rate) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return DecisionRate(rate, max(centre - margin, 0.0), min(centre + margin, 1.0), expected)


def join_windows(start: datetime, end: datetime, previous_end: datetime | None) -> datetime:
    """Where a window that was asked for as [start, end) begins: at the previous window's end when
    that is within a tenth of the window's length.

    A schedule is never exact. Without this a run that starts a second early overlaps the one
    before it, which then does not count as the window before.
    """
    if previous_end is not None and abs(previous_end - start) <= (end - start) / 10:
        return previous_end
    return start
