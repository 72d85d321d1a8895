"""Card transactions made up for any schema: heavy tails, factors in common, a day and a night,
amounts over decades, several kinds of fraud, and the truth.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudops.datasets.dataset import Dataset, canonical_frame, rows_digest
from fraudops.datasets.fraud_patterns import (
    DAY_SECONDS,
    GENUINE,
    PATTERNS,
    directions,
    draw_patterns,
    draw_times,
    rhythm,
)
from fraudops.errors import SettingsError
from fraudops.schema import Feature, FeatureSchema, load_schema

Float = NDArray[np.float64]
FACTORS = 3
DEGREES_OF_FREEDOM = 5.0
AMOUNT_MEDIAN, AMOUNT_SIGMA = 22.0, 1.7  # of the ULB data


@dataclass(frozen=True)
class GeneratedDataset:
    """`pattern` (rows,) says of each row what it truly is: `genuine` or the name of its fraud pattern."""

    dataset: Dataset
    pattern: NDArray[np.str_]


def generate(
    rows: int,
    seed: int,
    schema: FeatureSchema | None = None,
    fraud_rate: float = 0.0017,
    days: float = 2.0,
) -> GeneratedDataset:
    """Draws `rows` transactions over `days` days, `fraud_rate` of them (at least one) frauds.

    The same arguments give the same rows.

    Raises SettingsError for arguments from which no rows can be drawn.
    """
    frauds = max(1, round(rows * fraud_rate))
    if rows < 2 or not 0 < fraud_rate < 1 or frauds >= rows or days <= 0:
        raise SettingsError(
            "the generator needs at least 2 rows, more than 0 days, and a fraud rate between 0 and 1"
        )
    schema = schema or load_schema()
    generator = np.random.default_rng(seed)
    kind = np.full(rows, -1, dtype=np.intp)
    kind[rows - frauds :] = draw_patterns(frauds, generator)
    time = _times(kind, days, generator)
    scores = _scores(kind, time, schema, generator)
    columns = {
        feature.name: place(feature, scores[:, index], index)
        for index, feature in enumerate(schema.features)
    }
    columns[schema.amount] = _amounts(kind, schema, generator)
    columns |= {schema.time: time, schema.label: (kind >= 0).astype(np.float64)}
    frame = canonical_frame(columns, schema)
    names = np.array([*(pattern.name for pattern in PATTERNS), GENUINE])
    truth = names[kind[np.argsort(time, kind="stable")]]
    return GeneratedDataset(
        Dataset(frame, schema, f"generated (seed {seed})", rows_digest(frame, schema)), truth
    )


def _times(kind: NDArray[np.intp], days: float, generator: np.random.Generator) -> Float:
    """Whole seconds, as the ULB data has them."""
    time = rhythm(len(kind), days, generator)
    for number, pattern in enumerate(PATTERNS):
        time[kind == number] = draw_times(pattern, int((kind == number).sum()), days, generator)
    return np.floor(time)


def _scores(
    kind: NDArray[np.intp], time: Float, schema: FeatureSchema, generator: np.random.Generator
) -> Float:
    """(rows, features) of unit scale: Student's t with one scale a row (rows that are odd are odd
    all over), factors, the time of day, the fraud's move.
    """
    features = len(schema.names)
    world = np.random.default_rng(int(schema.fingerprint[16:32], 16))
    loadings = world.normal(scale=0.35, size=(FACTORS, features))
    daily = world.uniform(-0.15, 0.15, size=features)
    odd = np.sqrt(DEGREES_OF_FREEDOM / generator.chisquare(DEGREES_OF_FREEDOM, size=len(kind)))
    scores = (
        generator.normal(scale=0.8, size=(len(kind), features))
        + generator.normal(size=(len(kind), FACTORS)) @ loadings
    )
    scores *= odd[:, None]
    scores += np.cos(2 * np.pi * time / DAY_SECONDS)[:, None] * daily
    moves = np.vstack([directions(schema), np.zeros(features)])[kind]
    return scores + moves * generator.gamma(16.0, 1 / 16.0, size=(len(kind), 1))


def place(feature: Feature, scores: Float, index: int) -> Float:
    """Scores of unit scale as values of the feature, inside its range.

    A range around zero holds a principal component: centred, later ones narrower. Any other
    range is filled by a logistic curve, most rows in its lower half.
    """
    if feature.minimum < 0 < feature.maximum:
        scale = min(max(0.3, 2.0 * 0.93**index), min(-feature.minimum, feature.maximum) / 25)
        values = scores * scale
    else:
        values = feature.minimum + (feature.maximum - feature.minimum) / (
            1 + np.exp(1.0 - 0.8 * scores)
        )
    return np.clip(values, feature.minimum, feature.maximum)


def _amounts(
    kind: NDArray[np.intp], schema: FeatureSchema, generator: np.random.Generator
) -> Float:
    """Log-normal, rounded to cents, scaled down where the schema's range is too narrow for it."""
    amount = next(feature for feature in schema.features if feature.name == schema.amount)
    medians = np.array([*(pattern.amount_median for pattern in PATTERNS), AMOUNT_MEDIAN])[kind]
    sigmas = np.array([*(pattern.amount_sigma for pattern in PATTERNS), AMOUNT_SIGMA])[kind]
    lowest = max(amount.minimum, 0.0) if amount.maximum > 0 else amount.minimum
    values = (
        medians
        * np.exp(sigmas * generator.normal(size=len(kind)))
        * min(1.0, (amount.maximum - lowest) / 5000)
    )
    return np.clip(lowest + np.round(values, 2), amount.minimum, amount.maximum)
