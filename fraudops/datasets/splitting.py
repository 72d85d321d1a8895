"""Splits a dataset into 60 % train, 20 % validation and 20 % test rows, without overlap."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fraudops.datasets.dataset import Dataset, row_hashes
from fraudops.errors import DataError

PARTS = ("train", "validation", "test")
SHARES = (0.6, 0.8)


@dataclass(frozen=True)
class Split:
    """The three parts of a dataset, each in time order.

    Rows that would leak from one part to the next are dropped from the later part.
    `dropped_duplicates` counts those that equal a row of an earlier part. `dropped_ties`, in a
    split by time, counts those that have the same time as the last row of an earlier part.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    dropped_duplicates: int
    method: str
    dropped_ties: int = 0


def split(dataset: Dataset, method: Literal["time", "stratified"] = "time", seed: int = 7) -> Split:
    """Split by time, or at random with the same share of fraud in each part.

    Only the random split uses `seed`. Raises DataError when a part would have no fraud or no
    genuine row.
    """
    part = _by_time(dataset) if method == "time" else _stratified(dataset, seed)
    duplicate = _repeats(row_hashes(dataset), part)
    tie = (
        _ties(dataset.time, part) & ~duplicate
        if method == "time"
        else np.zeros(len(part), dtype=bool)
    )
    keep = ~(duplicate | tie)
    train, validation, test = (dataset.take(keep & (part == number)) for number in range(3))
    for name, rows in zip(PARTS, (train, validation, test), strict=True):
        _check_part(rows, name, method, dataset.source)
    return Split(train, validation, test, int(duplicate.sum()), method, int(tie.sum()))


def _by_time(dataset: Dataset) -> NDArray[np.int8]:
    return np.digitize(np.arange(len(dataset)), _cuts(len(dataset))).astype(np.int8)


def _stratified(dataset: Dataset, seed: int) -> NDArray[np.int8]:
    part = np.empty(len(dataset), dtype=np.int8)
    generator = np.random.default_rng(seed)
    for label in (0, 1):
        rows = generator.permutation(np.flatnonzero(dataset.y == label))
        part[rows] = np.digitize(np.arange(len(rows)), _cuts(len(rows)))
    return part


def _cuts(rows: int) -> list[int]:
    return [round(rows * share) for share in SHARES]


def _repeats(hashes: NDArray[np.uint64], part: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return which rows (rows,) have a hash that occurs in an earlier part too."""
    repeated = np.zeros(len(part), dtype=bool)
    for number in (1, 2):
        later = part == number
        repeated[later] = np.isin(hashes[later], hashes[part < number])
    return repeated


def _ties(time: NDArray[np.float64], part: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Return which rows (rows,) have the same time as the last row of an earlier part.

    The order of rows with the same time is unknown, so such a row may be older than that part's
    last row.
    """
    tied = np.zeros(len(part), dtype=bool)
    for number in (1, 2):
        earlier = time[part < number]
        if len(earlier):
            tied |= (part == number) & (time <= earlier[-1])
    return tied


def _lacking(rows: Dataset) -> str | None:
    if not len(rows):
        return "no rows"
    if not rows.frauds:
        return "no fraud"
    return "no genuine row" if rows.frauds == len(rows) else None


def _check_part(rows: Dataset, name: str, method: str, source: str) -> None:
    """Raise DataError if the part has no rows of a class."""
    lacking = _lacking(rows)
    if lacking:
        remedy = (
            "give more rows, or split with `--split stratified`"
            if method == "time"
            else "give more rows"
        )
        raise DataError(
            f"{source}: the {name} part of the {method} split holds {lacking}; {remedy}"
        )
