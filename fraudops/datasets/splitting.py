"""Train, validation and test: 60, 20 and 20 % of the rows, no row in two of them."""

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
    """Three parts, each in time order. What was dropped, was dropped from the later part.

    `dropped_duplicates` counts rows that an earlier part holds as well; `dropped_ties` (time
    split) other rows at the time with which an earlier part ends.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    dropped_duplicates: int
    method: str
    dropped_ties: int = 0


def split(dataset: Dataset, method: Literal["time", "stratified"] = "time", seed: int = 7) -> Split:
    """Splits by time, or at random with the same share of fraud in each part (`seed` is for that
    only).

    Raises DataError when a part would hold no fraud or no genuine row.
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
    """Rows whose hash stands in an earlier part as well."""
    repeated = np.zeros(len(part), dtype=bool)
    for number in (1, 2):
        later = part == number
        repeated[later] = np.isin(hashes[later], hashes[part < number])
    return repeated


def _ties(time: NDArray[np.float64], part: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Rows at the very time with which an earlier part ends: nobody can say which of them came first."""
    tied = np.zeros(len(part), dtype=bool)
    for number in (1, 2):
        earlier = time[part < number]
        if len(earlier):
            tied |= (part == number) & (time <= earlier[-1])
    return tied


def _check_part(rows: Dataset, name: str, method: str, source: str) -> None:
    lacking = (
        "no rows"
        if not len(rows)
        else "no fraud"
        if not rows.frauds
        else "no genuine row"
        if rows.frauds == len(rows)
        else None
    )
    if lacking:
        remedy = (
            "give more rows, or split with `--split stratified`"
            if method == "time"
            else "give more rows"
        )
        raise DataError(
            f"{source}: the {name} part of the {method} split holds {lacking}; {remedy}"
        )
