"""Checks which rows of a piece can be scored, by the rules of /predict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudops.datasets.checks import INFINITE_VALUE, NO_VALUE, outside_range
from fraudops.errors import DataError
from fraudops.schema import Feature, FeatureSchema

Matrix = NDArray[np.float64]
# The output keeps the ids of the HTTP contract, even if the user does not name them.
IDS = ("transaction_id", "entity_key")
ADDED = ("fraud_probability", "prediction", "model_version", "threshold")


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be scored.

    `number` is the line of a CSV or the row of a Parquet file, from 1. `column` is None if the
    whole row is at fault. `content` is the row itself, for the file of bad rows.
    """

    number: int
    column: str | None
    reason: str
    content: str


@dataclass(frozen=True)
class RowChunk:
    """The rows of one piece, or of a part of it.

    `x` (rows, features) holds the valid rows. `kept` has the columns of the same rows that the
    output keeps.
    """

    number: int
    x: Matrix
    kept: pa.Table
    bad: Sequence[BadRow]


def wrong_values(x: Matrix, schema: FeatureSchema) -> NDArray[np.bool_]:
    """Return True (rows, features) where a value is missing, infinite or outside its range."""
    lower, upper = (
        np.array([getattr(feature, bound) for feature in schema.features])
        for bound in ("minimum", "maximum")
    )
    # Not `(x < lower) | (x > upper)`: a NaN fails every comparison and must count as wrong.
    wrong: NDArray[np.bool_] = ~((x >= lower) & (x <= upper))
    return wrong


def first_fault(values: Matrix, wrong: NDArray[np.bool_], schema: FeatureSchema) -> tuple[str, str]:
    """Return the column and the reason of the first fault of a row, with the number of others.

    `values` and `wrong` have the shape (features,).
    """
    position = int(wrong.argmax())
    feature, more = schema.features[position], int(wrong.sum()) - 1
    others = "" if not more else f" (and {more} more of its columns)"
    return feature.name, _reason(float(values[position]), feature) + others


def _reason(value: float, feature: Feature) -> str:
    if np.isnan(value):
        return NO_VALUE
    return INFINITE_VALUE if np.isinf(value) else outside_range(feature)


def kept_columns(names: Sequence[str], keep: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the columns that the output keeps, each once: the ids and those of `keep`.

    Raises DataError for a column that the file does not have, or that the output adds itself.
    """
    for name in keep:
        if name not in names:
            raise DataError(
                f"{where}: there is no column {name!r} to keep; name one that the file has"
            )
        if name in ADDED:
            raise DataError(
                f"{where}: the column {name!r} cannot be kept: "
                "the scores have a column of that name; rename it"
            )
    return tuple(dict.fromkeys([*(name for name in IDS if name in names), *keep]))
