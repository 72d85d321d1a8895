"""The decisions about drift: PSI of two samples, verdict of a window, and decision rate.

The score or one feature above its own threshold in two windows in a row is an alarm. The share of
drifted features does not decide. One broken feature, such as a feed that stops or a currency that
changes, is enough to spoil a model, and a share of 0.5 would wait for 15 of 29 features.
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
# The share of an empty bin: with a share of 0 the logarithm would be infinite.
EMPTY_SHARE = 1e-4
# The 97.5 % quantile of the standard normal distribution.
NORMAL_975 = 1.959963984540054


@dataclass(frozen=True)
class ColumnDrift:
    """The PSI of one column and its threshold. The score is the column `fraud_probability`."""

    name: str
    psi: float
    threshold: float

    @property
    def exceeded(self) -> bool:
        return self.psi > self.threshold


@dataclass(frozen=True)
class DecisionRate:
    """The share of rows that are decided as fraud, with its 95 % interval.

    `expected` is the share that the bundle expects at the natural prevalence.
    """

    value: float
    lower: float
    upper: float
    expected: float

    @property
    def position(self) -> Literal["below", "as expected", "above"]:
        """The position of the interval relative to the expected share."""
        if self.upper < self.expected:
            return "below"
        return "above" if self.lower > self.expected else "as expected"


def psi(reference: NDArray[np.float64], current: NDArray[np.float64], bins: int = BINS) -> float:
    """Return the population stability index of two samples (n,) and (m,).

    It is the sum of (p - q) ln(p / q) over the bins, where p and q are the shares of the samples.

    The bins are quantiles of the reference, as in credit scoring (Siddiqi, Credit Risk Scorecards,
    2006; Yurdakul, 2018). So every bin has equal weight in the reference, and a monotone
    transformation does not change the value. Evidently's own `psi` has bins of equal width, and one
    of them gets nearly all values of a heavy-tailed column: tripled amounts give 0.07 there and
    0.41 here. Without drift the expected value is about (bins - 1)(1/n + 1/m).
    """
    edges = _edges(reference, bins)
    p, q = _shares(reference, edges), _shares(current, edges)
    return float(np.sum((p - q) * np.log(p / q)))


def _edges(reference: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Return the inner edges of the bins, which are quantiles of the reference.

    A column with few distinct values has one bin for each value, and one bin below and above them.
    So a constant that moves is noticed.
    """
    distinct = np.unique(reference)
    if len(distinct) <= bins:
        return np.concatenate(([np.nextafter(distinct[0], -np.inf)], distinct))
    return np.unique(np.quantile(reference, np.linspace(0.0, 1.0, bins + 1)[1:-1]))


def _shares(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    # side="left" puts a value that equals an edge into the bin below the edge.
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return np.maximum(counts / len(values), EMPTY_SHARE)


def judge(
    rows: int, minimum_rows: int, columns: Sequence[ColumnDrift], exceeded_before: bool
) -> Verdict:
    """Return the verdict of one window.

    `columns` holds every feature and the score. `exceeded_before` is True if a column of the window
    before this one was above its threshold. The decision rate does not influence the verdict: it
    moves with the fraud rate, which is not a fault of the model.
    """
    if rows < minimum_rows:
        return "not enough rows"
    if not any(column.exceeded for column in columns):
        return "none"
    return "alarm" if exceeded_before else "warning"


def decision_rate(rows: int, positives: int, expected: float) -> DecisionRate:
    """Return the decision rate with its Wilson score interval (Wilson, 1927).

    That interval stays inside [0, 1] and is correct for rare decisions. The usual p +- 1.96 s is
    not.
    """
    if rows == 0:
        return DecisionRate(0.0, 0.0, 1.0, expected)
    rate, z2 = positives / rows, NORMAL_975**2
    centre = (rate + z2 / (2 * rows)) / (1 + z2 / rows)
    margin = NORMAL_975 * sqrt(rate * (1 - rate) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return DecisionRate(rate, max(centre - margin, 0.0), min(centre + margin, 1.0), expected)


def join_windows(start: datetime, end: datetime, previous_end: datetime | None) -> datetime:
    """Return the start of the window [start, end), moved to the end of the previous window.

    It moves only by up to a tenth of the window's length. A schedule is never exact. A run that
    starts one second early would overlap the previous window, which then would not count as the
    window before this one.
    """
    if previous_end is not None and abs(previous_end - start) <= (end - start) / 10:
        return previous_end
    return start
