"""Generates card transactions for any schema, with the true pattern of each row.

The rows have heavy tails, correlated features, a daily rhythm, log-normal amounts and several
kinds of fraud.
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
# Median and log-sigma of the genuine amounts in the ULB data.
AMOUNT_MEDIAN, AMOUNT_SIGMA = 22.0, 1.7


@dataclass(frozen=True)
class GeneratedDataset:
    """Generated rows, with `pattern` (rows,): `genuine` or the name of the row's fraud pattern."""

    dataset: Dataset
    pattern: NDArray[np.str_]


def generate(
    rows: int,
    seed: int,
    schema: FeatureSchema | None = None,
    fraud_rate: float = 0.0017,
    days: float = 2.0,
) -> GeneratedDataset:
    """Generate `rows` transactions over `days` days, with the share `fraud_rate` of frauds.

    At least one row is a fraud. The same arguments give the same rows.

    Raises SettingsError for arguments that allow no rows.
    """
    frauds = max(1, round(rows * fraud_rate))
    if rows < 2 or not 0 < fraud_rate < 1 or frauds >= rows or days <= 0:
        raise SettingsError(
            "the generator needs at least 2 rows, more than 0 days, "
            "and a fraud rate between 0 and 1"
        )
    schema = schema or load_schema()
    generator = np.random.default_rng(seed)
    # An index into PATTERNS for each row; -1 is a genuine row and picks the last entry of `names`.
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
    # canonical_frame sorts the rows by time with the same stable sort.
    truth = names[kind[np.argsort(time, kind="stable")]]
    return GeneratedDataset(
        Dataset(frame, schema, f"generated (seed {seed})", rows_digest(frame, schema)), truth
    )


def _times(kind: NDArray[np.intp], days: float, generator: np.random.Generator) -> Float:
    """Draw the times (rows,) in whole seconds, as in the ULB data."""
    time = rhythm(len(kind), days, generator)
    for number, pattern in enumerate(PATTERNS):
        time[kind == number] = draw_times(pattern, int((kind == number).sum()), days, generator)
    return np.floor(time)


def _scores(
    kind: NDArray[np.intp], time: Float, schema: FeatureSchema, generator: np.random.Generator
) -> Float:
    """Draw scores (rows, features) of about unit scale, which `place` turns into values.

    Genuine rows follow a multivariate Student's t distribution with common factors, plus the time
    of day. A fraud also moves in the direction of its pattern.
    """
    features = len(schema.names)
    world = np.random.default_rng(int(schema.fingerprint[16:32], 16))
    loadings = world.normal(scale=0.35, size=(FACTORS, features))
    daily = world.uniform(-0.15, 0.15, size=features)
    # One scale for each row, not for each value: an unusual row is unusual in all its features.
    scale = np.sqrt(DEGREES_OF_FREEDOM / generator.chisquare(DEGREES_OF_FREEDOM, size=len(kind)))
    scores = (
        generator.normal(scale=0.8, size=(len(kind), features))
        + generator.normal(size=(len(kind), FACTORS)) @ loadings
    )
    scores *= scale[:, None]
    scores += np.cos(2 * np.pi * time / DAY_SECONDS)[:, None] * daily
    # The last row, of zeros, is the move of the genuine rows: their kind is -1.
    moves = np.vstack([directions(schema), np.zeros(features)])[kind]
    return scores + moves * generator.gamma(16.0, 1 / 16.0, size=(len(kind), 1))


def place(feature: Feature, scores: Float, index: int) -> Float:
    """Turn scores (rows,) of unit scale into values of the feature, inside its range.

    A range around zero is treated as a principal component: the values are centred at zero, and
    a component with a higher index is narrower. A logistic curve fills any other range, with most
    rows in its lower half.
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
    """Draw log-normal amounts (rows,), rounded to cents.

    They are scaled down if the schema's range is narrower than 5,000.
    """
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
