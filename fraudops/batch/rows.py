"""Which rows of a piece can be scored, and why the others cannot: the rules are those of /predict."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraudops.datasets.checks import INFINITE_VALUE, NO_VALUE, outside_range
from fraudops.errors import DataError
from fraudops.schema import Feature, FeatureSchema

Matrix = NDArray[np.float64]
# The ids of the HTTP contract are kept unasked.
IDS = ("transaction_id", "entity_key")
ADDED = ("fraud_probability", "prediction", "model_version", "threshold")


@dataclass(frozen=True)
class BadRow:
    """`number` counts lines of a CSV, rows of a Parquet file, from 1;

    `content` is the row itself, for the file that it is set aside in.
    """

    number: int
    column: str | None
    reason: str
    content: str


@dataclass(frozen=True)
class RowChunk:
    """`x` is (rows, features), sound rows only;

    `kept` has the columns that the output takes over of the same rows.
    """

    number: int
    x: Matrix
    kept: pa.Table
    bad: Sequence[BadRow]


def wrong_values(x: Matrix, schema: FeatureSchema) -> NDArray[np.bool_]:
    """(rows, features): True where a value is missing, infinite or outside its range.

    A NaN fails every comparison.
    """
    lower, upper = (
        np.array([getattr(feature, bound) for feature in schema.features])
        for bound in ("minimum", "maximum")
    )
    wrong: NDArray[np.bool_] = ~((x >= lower) & (x <= upper))
    return wrong


def first_fault(values: Matrix, wrong: NDArray[np.bool_], schema: FeatureSchema) -> tuple[str, str]:
    """Column and reason of the leftmost fault of one row, and how many more it has."""
    position = int(wrong.argmax())
    feature, more = schema.features[position], int(wrong.sum()) - 1
    others = "" if not more else f" (and {more} more of its columns)"
    return feature.name, _reason(float(values[position]), feature) + others


def _reason(value: float, feature: Feature) -> str:
    if np.isnan(value):
        return NO_VALUE
    return INFINITE_VALUE if np.isinf(value) else outside_range(feature)


def kept_columns(names: Sequence[str], asked: Sequence[str], where: str) -> tuple[str, ...]:
    """The columns that the output takes over, each once.

    Raises DataError for one that the file does not have, or that the scores would hide.
    """
    for name in asked:
        if name not in names:
            raise DataError(
                f"{where}: there is no column {name!r} to keep; name one that the file has"
            )
        if name in ADDED:
            raise DataError(
                f"{where}: the column {name!r} cannot be kept: the scores have one of that name; rename it"
            )
    return tuple(dict.fromkeys([*(name for name in IDS if name in names), *asked]))
