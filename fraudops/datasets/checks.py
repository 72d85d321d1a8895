"""Checks of the values of a dataset against its schema, over whole columns.

No message quotes a value, because values are card data.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fraudops.schema import Feature, FeatureSchema

Columns = dict[str, NDArray[np.float64]]
MINIMUM_ROWS = 100
NO_VALUE = "the value is missing (empty or NaN); fill it in or remove the row"
INFINITE_VALUE = "the value is infinite, or too large for a number; correct it or remove the row"


@dataclass(frozen=True, order=True)
class DataFault:
    """One kind of fault in one column: its first row, counted from 0, and the number of rows.

    Faults sort by row, then by `position`, the column's place in the schema.
    """

    row: int
    position: int
    column: str
    text: str
    rows: int


def first_fault(columns: Columns, schema: FeatureSchema) -> DataFault | None:
    """Return the fault in the first bad row, and there in the schema's first bad column."""
    faults = [
        fault
        for position, name in enumerate(schema.columns)
        for fault in _faults(columns[name], position, name, schema)
    ]
    return min(faults, default=None)


def _faults(
    values: NDArray[np.float64], position: int, name: str, schema: FeatureSchema
) -> list[DataFault]:
    missing = np.isnan(values)
    infinite = np.isinf(values)
    checks = [
        (missing, NO_VALUE),
        (infinite, INFINITE_VALUE),
        _outside(values, name, schema, ~(missing | infinite)),
    ]
    return [
        DataFault(int(wrong.argmax()), position, name, text, int(wrong.sum()))
        for wrong, text in checks
        if wrong.any()
    ]


def _outside(
    values: NDArray[np.float64], name: str, schema: FeatureSchema, finite: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], str]:
    """Return which finite values (rows,) are outside their range, and the message for them.

    The time has no range.
    """
    if name == schema.label:
        return finite & (values != 0) & (values != 1), "the class must be 0 (genuine) or 1 (fraud)"
    for feature in schema.features:
        if feature.name == name:
            return finite & (
                (values < feature.minimum) | (values > feature.maximum)
            ), outside_range(feature)
    return np.zeros(len(values), dtype=bool), ""


def outside_range(feature: Feature) -> str:
    return (
        "the value lies outside the schema's range of "
        f"{feature.minimum:g} to {feature.maximum:g}; correct it, or widen the range in the schema"
    )


def shortage(columns: Columns, schema: FeatureSchema) -> str | None:
    """Return why the rows cannot be used although each row is valid, or None if they can."""
    rows = len(columns[schema.label])
    frauds = int((columns[schema.label] == 1).sum())
    if rows < MINIMUM_ROWS:
        return f"{rows} rows are too few; give at least {MINIMUM_ROWS}"
    if frauds == 0:
        return f"no fraud among {rows:,} rows: no {schema.label!r} is 1; give rows of both classes"
    if frauds == rows:
        return f"all {rows:,} rows are frauds: no {schema.label!r} is 0; give rows of both classes"
    return None
