"""The frauds of the generator: how each pattern looks, when it strikes and what it takes.

Invented, in the manner of real ones.
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
    """`share` of all frauds;

    `distance` from genuine rows in standard deviations, whatever the number of features; median
    and log-sigma of the amount.
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
    """(frauds,) index into PATTERNS, by share."""
    return generator.choice(len(PATTERNS), size=frauds, p=[pattern.share for pattern in PATTERNS])


def directions(schema: FeatureSchema) -> Float:
    """(patterns, features) in standard deviations: the same for every seed, so that what was learnt
    of one generated file holds for the next.

    A feature moves to the same side in every pattern, as in real data; which features move
    differs. The amount has its own law and stays out.
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
        moves[row, chosen] = pattern.distance * weights / np.linalg.norm(weights) * side[chosen]
    return moves


def draw_times(pattern: Pattern, count: int, days: float, generator: np.random.Generator) -> Float:
    """(count,) seconds since the first midnight."""
    if pattern.when != "bursts":
        return rhythm(count, days, generator, night=pattern.when == "night")
    starts = rhythm(max(1, -(-count // 6)), days, generator, night=True)
    return np.minimum(
        generator.choice(starts, size=count) + generator.uniform(0, 600, size=count),
        days * DAY_SECONDS,
    )


def rhythm(count: int, days: float, generator: np.random.Generator, night: bool = False) -> Float:
    """(count,) seconds, dense at 15 h and sparse at 3 h (the other way round at `night`): the
    inverse of the distribution function on a grid of minutes.
    """
    edges = np.linspace(0, days * DAY_SECONDS, max(2, int(days * 1440) + 1))
    middle = (edges[1:] + edges[:-1]) / 2
    wave = 0.85 * np.sin(2 * np.pi * (middle / DAY_SECONDS - 9 / 24))
    density = 1 - wave if night else 1 + wave
    share = np.concatenate([[0.0], np.cumsum(density)]) / density.sum()
    return np.interp(generator.uniform(size=count), share, edges)
