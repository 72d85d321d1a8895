"""Rows that fit a schema, with their digest, hashes and class weights."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fraudops.errors import SettingsError
from fraudops.schema import FeatureSchema


@dataclass(frozen=True)
class Dataset:
    """Checked rows in time order.

    `frame` has exactly the columns `schema.columns`: the label as int8, all others as float64.
    `digest` is the sha256 of the file's bytes. Generated rows and the parts of a split have no
    file: there it is the digest of the rows (`rows_digest`). `prevalence` is the natural share of
    fraud; None means that the data has the natural share already. `sample` is True only for the
    packaged sample.
    """

    frame: pd.DataFrame
    schema: FeatureSchema
    source: str
    digest: str
    prevalence: float | None = None
    sample: bool = False

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def x(self) -> NDArray[np.float64]:
        """The features (rows, features), in schema order."""
        return np.ascontiguousarray(self.frame[list(self.schema.names)].to_numpy(dtype=np.float64))

    @property
    def y(self) -> NDArray[np.int8]:
        return self.frame[self.schema.label].to_numpy(dtype=np.int8)

    @property
    def time(self) -> NDArray[np.float64]:
        return self.frame[self.schema.time].to_numpy(dtype=np.float64)

    @property
    def amount(self) -> NDArray[np.float64]:
        return self.frame[self.schema.amount].to_numpy(dtype=np.float64)

    @property
    def frauds(self) -> int:
        return int(self.y.sum())

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Dataset":
        """Return the rows at these positions, or where a mask is True, with their own digest."""
        frame = self.frame.iloc[
            np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        ].reset_index(drop=True)
        return replace(self, frame=frame, digest=rows_digest(frame, self.schema))


def canonical_frame(columns: dict[str, NDArray[np.float64]], schema: FeatureSchema) -> pd.DataFrame:
    """Return the columns in the schema's order and types, with the rows sorted by time.

    Rows with the same time keep their order. -0.0 becomes 0.0, so that equal values have equal
    bytes and equal digests.
    """
    order = np.argsort(columns[schema.time], kind="stable")
    data = {name: columns[name][order] + 0.0 for name in schema.columns}
    return pd.DataFrame(data).astype({schema.label: np.int8})


def rows_digest(frame: pd.DataFrame, schema: FeatureSchema) -> str:
    """Return the sha256 of the column names and of the rows' float64 bytes."""
    digest = hashlib.sha256("\n".join(schema.columns).encode())
    for name in schema.columns:
        digest.update(frame[name].to_numpy(dtype="<f8").tobytes())
    return digest.hexdigest()


def row_hashes(dataset: Dataset) -> NDArray[np.uint64]:
    """Return a hash (rows,) of the time, features and label of each row.

    Equal rows have equal hashes in every file and every release. The finaliser of splitmix64
    (Steele, Lea, Flood, OOPSLA 2014) mixes the float64 bits of each column into the hash.
    """
    hashes = np.zeros(len(dataset), dtype=np.uint64)
    for name in dataset.schema.columns:
        # The sum with 0.0 turns -0.0 into 0.0: equal values must have equal bits.
        bits = (dataset.frame[name].to_numpy(dtype="<f8") + 0.0).view(np.uint64)
        hashes = _mix(hashes + np.uint64(0x9E3779B97F4A7C15) ^ bits)
    return hashes


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def class_weights(y: NDArray[np.int8], prevalence: float | None) -> NDArray[np.float64]:
    """Return weights (rows,) under which frauds have the share `prevalence` of the total.

    A fraud has the weight 1; all genuine rows have one common weight. Without a prevalence all
    weights are 1.

    Raises SettingsError when `prevalence` is not a share, or when a class has no rows.
    """
    weights = np.ones(len(y), dtype=np.float64)
    if prevalence is None:
        return weights
    if not 0 < prevalence < 1:
        raise SettingsError(
            "prevalence must lie between 0 and 1: the natural share of fraud, such as 0.0017"
        )
    frauds = int((y == 1).sum())
    genuine = len(y) - frauds
    if frauds == 0 or genuine == 0:
        raise SettingsError(
            "rows of one class only cannot be weighted to a prevalence; "
            "give rows with frauds and genuine transactions"
        )
    weights[y != 1] = frauds * (1 - prevalence) / (prevalence * genuine)
    return weights
