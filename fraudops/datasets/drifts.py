"""Named drifts for generated or real rows, and the rows that each of them changed."""

from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fraudops.datasets.dataset import Dataset, rows_digest
from fraudops.errors import SettingsError

DriftName = Literal["covariate", "new-fraud-pattern", "amount-inflation"]
DRIFTS: tuple[str, ...] = get_args(DriftName)
NEW_FRAUD_SHARE = 0.01
Float = NDArray[np.float64]
Bool = NDArray[np.bool_]


def overlay(
    dataset: Dataset, drift: DriftName, seed: int, strength: float = 1.0
) -> tuple[Dataset, Bool]:
    """Return the dataset under a drift, and which rows (rows,) the drift changed.

    Values stay inside the schema's ranges. At strength 1:

    `covariate` moves a third of the features, at least two and not the amount, by one robust
    standard deviation in every row.
    `amount-inflation` triples every amount.
    `new-fraud-pattern` turns 1 % of the rows into frauds. They move by six deviations along the
    features that separate today's frauds least. They are too few for the PSI, and today's model
    misses them, so only labels reveal them.

    The strength scales the move, the rise and the share. Raises SettingsError for an unknown drift
    or a strength outside 0 to 10.
    """
    if drift not in DRIFTS:
        raise SettingsError(f"there is no drift {drift!r}; known are {', '.join(DRIFTS)}")
    if not 0 <= strength <= 10:
        raise SettingsError("the strength of a drift must lie between 0 and 10")
    if strength == 0:
        return dataset, np.zeros(len(dataset), dtype=bool)
    generator = np.random.default_rng(seed)
    frame = dataset.frame.copy()
    apply = {
        "covariate": _covariate,
        "new-fraud-pattern": _new_fraud_pattern,
        "amount-inflation": _amount_inflation,
    }[drift]
    affected = apply(frame, dataset, strength, generator)
    for feature in dataset.schema.features:
        frame[feature.name] = frame[feature.name].clip(feature.minimum, feature.maximum)
    source = f"{dataset.source} under {drift} drift (strength {strength:g}, seed {seed})"
    return replace(
        dataset, frame=frame, source=source, digest=rows_digest(frame, dataset.schema)
    ), affected


def _covariate(
    frame: pd.DataFrame, dataset: Dataset, strength: float, generator: np.random.Generator
) -> Bool:
    names = _movable(dataset)
    for name in generator.choice(
        names, size=max(min(2, len(names)), round(len(names) / 3)), replace=False
    ):
        frame[name] += strength * _spread(frame[name].to_numpy()) * _side(name, dataset, generator)
    return np.ones(len(frame), dtype=bool)


def _amount_inflation(
    frame: pd.DataFrame, dataset: Dataset, strength: float, _generator: np.random.Generator
) -> Bool:
    amount = dataset.schema.amount
    before = frame[amount].to_numpy()
    frame[amount] = np.round(before * (1 + 2 * strength), 2)
    return np.asarray(frame[amount].to_numpy() != before)


def _new_fraud_pattern(
    frame: pd.DataFrame, dataset: Dataset, strength: float, generator: np.random.Generator
) -> Bool:
    genuine = np.flatnonzero(dataset.y == 0)
    count = min(len(genuine), max(1, round(len(frame) * NEW_FRAUD_SHARE * strength)))
    chosen = np.zeros(len(frame), dtype=bool)
    chosen[generator.choice(genuine, size=count, replace=False)] = True
    # The least separating features first.
    names = sorted(_movable(dataset), key=lambda name: _separation(dataset, name))
    for name in names[: max(1, round(len(names) / 5))]:
        move = 6 * _spread(frame[name].to_numpy()) * _side(name, dataset, generator)
        # Gamma(25, 1/25) has the mean 1 and the deviation 0.2: the new frauds are not one point.
        frame.loc[chosen, name] += move * generator.gamma(25.0, 1 / 25.0, size=count)
    frame.loc[chosen, dataset.schema.label] = 1
    return chosen


def _movable(dataset: Dataset) -> list[str]:
    """Return every feature except the amount, or the amount if it is the only feature."""
    names = [name for name in dataset.schema.names if name != dataset.schema.amount]
    return names or [dataset.schema.amount]


def _spread(values: Float) -> float:
    """Return a robust standard deviation of the values, which is never 0.

    It is the deviation of a normal distribution with the same quartiles. If the quartiles are
    equal, it is the standard deviation of the values; if that is 0 too, it is 1.
    """
    lower, upper = np.quantile(values, [0.25, 0.75])
    # The quartiles of a normal distribution are 1.349 standard deviations apart.
    return float((upper - lower) / 1.349 or values.std() or 1.0)


def _side(name: str, dataset: Dataset, generator: np.random.Generator) -> float:
    """Return the direction in which a feature moves: +1 or -1.

    It is random if the range has room on both sides of the median, or else the side with more room.
    """
    feature = next(feature for feature in dataset.schema.features if feature.name == name)
    values = dataset.frame[name].to_numpy()
    middle = float(np.median(values))
    above, below = feature.maximum - middle, middle - feature.minimum
    # Drawn in every case, so that the next feature's draw does not depend on this one's range.
    random = float(generator.choice([-1.0, 1.0]))
    if min(above, below) > 12 * _spread(values):
        return random
    return 1.0 if above >= below else -1.0


def _separation(dataset: Dataset, name: str) -> float:
    """Return the distance of the medians of frauds and genuine rows, in robust deviations.

    It is 0 when a class has no rows.
    """
    values, fraud = dataset.frame[name].to_numpy(), dataset.y == 1
    if not fraud.any() or fraud.all():
        return 0.0
    return abs(float(np.median(values[fraud]) - np.median(values[~fraud]))) / _spread(values)
