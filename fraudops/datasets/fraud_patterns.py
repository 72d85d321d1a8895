"""The fraud patterns of the generator: the features, times and amounts of each.

The patterns are invented, after the kinds of fraud that are known from practice.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fraudops.schema import FeatureSchema

DAY_SECONDS = 86_400.0
GENUINE = "genuine"
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Pattern:
    """One kind of fraud.

    `share` is its share of all frauds. `distance` is the Euclidean distance of its centre from the
    genuine rows, in standard deviations and independent of the number of features. The amount is
    log-normal, with this median and this standard deviation of the logarithm.
    """

    name: str
    share: float
    distance: float
    amount_median: float
    amount_sigma: float
    when: Literal["day", "night", "bursts"]


PATTERNS = (
    Pattern("card-testing", 0.35, 12.0, 1.0, 0.4, "bursts"),
    Pattern("account-takeover", 0.30, 15.0, 280.0, 0.9, "day"),
    Pattern("stolen-card", 0.25, 10.0, 90.0, 1.0, "night"),
    Pattern("lookalike", 0.10, 4.0, 45.0, 1.3, "day"),
)


def draw_patterns(frauds: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Draw an index into PATTERNS (frauds,) for each fraud, by the shares of the patterns."""
    return generator.choice(len(PATTERNS), size=frauds, p=[pattern.share for pattern in PATTERNS])


def directions(schema: FeatureSchema) -> Float:
    """Return the move of each pattern (patterns, features), in standard deviations.

    It depends on the schema and not on the seed, so a model that learns from one generated file
    also fits the next. A feature moves to the same side in every pattern, as in real data, but the
    patterns move different features. The amount has its own distribution and does not move.
    """
    world = np.random.default_rng(int(schema.fingerprint[:16], 16))
    movable = np.flatnonzero([name != schema.amount for name in schema.names])
    side = world.choice([-1.0, 1.0], size=len(schema.names))
    moves = np.zeros((len(PATTERNS), len(schema.names)))
    if not len(movable):
        return moves
    for row, pattern in enumerate(PATTERNS):
        chosen = world.choice(
            movable, size=min(len(movable), max(3, len(movable) // 3)), replace=False
        )
        weights = world.uniform(0.6, 1.0, size=len(chosen))
        # The norm makes the length of the whole move equal to `distance`.
        moves[row, chosen] = pattern.distance * weights / np.linalg.norm(weights) * side[chosen]
    return moves


def draw_times(pattern: Pattern, count: int, days: float, generator: np.random.Generator) -> Float:
    """Draw the times (count,) of a pattern's frauds, in seconds since the first midnight."""
    if pattern.when != "bursts":
        return rhythm(count, days, generator, night=pattern.when == "night")
    # About six frauds in each burst of at most ten minutes; the division rounds up.
    starts = rhythm(max(1, -(-count // 6)), days, generator, night=True)
    return np.minimum(
        generator.choice(starts, size=count) + generator.uniform(0, 600, size=count),
        days * DAY_SECONDS,
    )


def rhythm(count: int, days: float, generator: np.random.Generator, night: bool = False) -> Float:
    """Draw times (count,) in seconds that follow the time of day.

    They are dense at 15 h and sparse at 3 h, or the reverse with `night`. The method is inverse
    transform sampling: the distribution function on a grid of minutes, inverted by interpolation.
    """
    edges = np.linspace(0, days * DAY_SECONDS, max(2, int(days * 1440) + 1))
    middle = (edges[1:] + edges[:-1]) / 2
    wave = 0.85 * np.sin(2 * np.pi * (middle / DAY_SECONDS - 9 / 24))
    density = 1 - wave if night else 1 + wave
    share = np.concatenate([[0.0], np.cumsum(density)]) / density.sum()
    return np.interp(generator.uniform(size=count), share, edges)
