"""Rows that fit a schema, and what can be said of them without a model."""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fraudops.errors import SettingsError
from fraudops.schema import FeatureSchema


@dataclass(frozen=True)
class Dataset:
    """Checked rows in time order: exactly `schema.columns`, float64 but for the label, which is int8.

    `digest` is the sha256 of the file's bytes, or of the canonical rows (`rows_digest`) where
    there is no file: generated rows and parts of a split. `prevalence` is the natural share of
    fraud; None means that the data counts as collected. `sample` is True for the packaged sample
    alone.
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
        """(rows, features), features in schema order."""
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
        """The rows at these positions (or where True), with their own digest."""
        frame = self.frame.iloc[
            np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        ].reset_index(drop=True)
        return replace(self, frame=frame, digest=rows_digest(frame, self.schema))


def canonical_frame(columns: dict[str, NDArray[np.float64]], schema: FeatureSchema) -> pd.DataFrame:
    """Columns in the schema's order and types, rows sorted by time; rows of one time keep their
    order. -0.0 becomes 0.0.
    """
    order = np.argsort(columns[schema.time], kind="stable")
    data = {name: columns[name][order] + 0.0 for name in schema.columns}
    return pd.DataFrame(data).astype({schema.label: np.int8})


def rows_digest(frame: pd.DataFrame, schema: FeatureSchema) -> str:
    """sha256 over the column names and the rows' float64 bytes."""
    digest = hashlib.sha256("\n".join(schema.columns).encode())
    for name in schema.columns:
        digest.update(frame[name].to_numpy(dtype="<f8").tobytes())
    return digest.hexdigest()


def row_hashes(dataset: Dataset) -> NDArray[np.uint64]:
    """(rows,) hash of time, features and label of each row: equal rows have equal hashes, in any
    file and any release.

    Each column's float64 bits are folded in with the finaliser of splitmix64 (Steele, Lea,
    Flood, OOPSLA 2014).
    """
    hashes = np.zeros(len(dataset), dtype=np.uint64)
    for name in dataset.schema.columns:
        bits = (dataset.frame[name].to_numpy(dtype="<f8") + 0.0).view(np.uint64)
        hashes = _mix(hashes + np.uint64(0x9E3779B97F4A7C15) ^ bits)
    return hashes


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def class_weights(y: NDArray[np.int8], prevalence: float | None) -> NDArray[np.float64]:
    """(rows,) weights under which frauds are `prevalence` of the whole: 1 for a fraud, one common
    weight for the genuine rows; all 1 without a prevalence.

    Raises SettingsError when `prevalence` is not a share or one of the classes is absent.
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
            "rows of one class only cannot be weighted to a prevalence; give rows with frauds and genuine transactions"
        )
    weights[y != 1] = frauds * (1 - prevalence) / (prevalence * genuine)
    return weights
