"""Repeated measurements: medians with their range, ratios by round, and claims."""

from collections.abc import Sequence
from statistics import median
from typing import Literal

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """The median of some measurements, the smallest and the largest."""

    median: float
    least: float
    most: float
    values: tuple[float, ...]

    def __str__(self) -> str:
        return (
            f"{short(self.median)} ({short(self.least)} to {short(self.most)})"
            if len(self.values) > 1
            else short(self.median)
        )


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of the values. Raises ValueError if there are none."""
    if not values:
        raise ValueError("no measurement, no median")
    return Spread(median(values), min(values), max(values), tuple(values))


def ratio(subject: Sequence[float], baseline: Sequence[float]) -> Spread:
    """Return subject / baseline of each round: a slow round slows both.

    Raises ValueError unless each round measured both.
    """
    return spread([one / other for one, other in zip(subject, baseline, strict=True)])


def short(value: float) -> str:
    """Format with three significant digits and thousands apart: 0.00123, 4.56, 12.3, 45,678."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value == 0 or abs(value) < 10 else f"{value:.1f}"


class Claim(msgspec.Struct, frozen=True):
    """A claim of the project and its measurement in this run; the median decides."""

    text: str
    measured: Spread
    bound: float
    side: Literal["at least", "at most"]

    @property
    def holds(self) -> bool:
        return (
            self.measured.median >= self.bound
            if self.side == "at least"
            else self.measured.median <= self.bound
        )
