"""The named drifts, laid over generated or real rows, with the truth of which rows they touched."""

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
    """The dataset under a drift, its values still inside the schema's ranges, and (rows,) whether a
    row was touched.

    At strength 1: `covariate` moves a third of the features (two at least, not the amount) by
    one robust standard deviation, in every row; `amount-inflation` triples every amount;
    `new-fraud-pattern` turns 1 % of the rows into frauds six deviations away along the features
    that tell today's frauds least: too few for a PSI, and missed by today's model, so that
    labels reveal them. Strength scales the move, the rise and the share. Raises SettingsError
    for an unknown drift or a strength outside 0 to 10.
    """
    if drift not in DRIFTS:
        raise SettingsError(f"there is no drift {drift!r}; known are {', '.join(DRIFTS)}")
    if not 0 <= strength <= 10:
        raise SettingsError("the strength of a drift must lie between 0 and 10")
    if strength == 0:
        return dataset, np.zeros(len(dataset), dtype=bool)
    generator = np.random.default_rng(seed)
    frame = dataset.frame.copy()
    lay = {
        "covariate": _covariate,
        "new-fraud-pattern": _new_fraud_pattern,
        "amount-inflation": _amount_inflation,
    }[drift]
    affected = lay(frame, dataset, strength, generator)
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
    names = sorted(_movable(dataset), key=lambda name: _telling(dataset, name))
    for name in names[: max(1, round(len(names) / 5))]:
        move = 6 * _spread(frame[name].to_numpy()) * _side(name, dataset, generator)
        frame.loc[chosen, name] += move * generator.gamma(25.0, 1 / 25.0, size=count)
    frame.loc[chosen, dataset.schema.label] = 1
    return chosen


def _movable(dataset: Dataset) -> list[str]:
    """Every feature but the amount; the amount where it is the only one."""
    names = [name for name in dataset.schema.names if name != dataset.schema.amount]
    return names or [dataset.schema.amount]


def _spread(values: Float) -> float:
    """The standard deviation of a normal with these quartiles; where they coincide, that of the
    values; never 0.
    """
    lower, upper = np.quantile(values, [0.25, 0.75])
    return float((upper - lower) / 1.349 or values.std() or 1.0)


def _side(name: str, dataset: Dataset, generator: np.random.Generator) -> float:
    """+1 or -1 at random where the range has room on both sides of the median, else the side with
    more room.
    """
    feature = next(feature for feature in dataset.schema.features if feature.name == name)
    values = dataset.frame[name].to_numpy()
    middle = float(np.median(values))
    above, below = feature.maximum - middle, middle - feature.minimum
    random = float(generator.choice([-1.0, 1.0]))
    if min(above, below) > 12 * _spread(values):
        return random
    return 1.0 if above >= below else -1.0


def _telling(dataset: Dataset, name: str) -> float:
    """How far apart frauds and genuine rows lie on this feature, in spreads."""
    values, fraud = dataset.frame[name].to_numpy(), dataset.y == 1
    if not fraud.any() or fraud.all():
        return 0.0
    return abs(float(np.median(values[fraud]) - np.median(values[~fraud]))) / _spread(values)
