"""Train, validation and test parts."""

from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudops.datasets import Dataset, Split, generate, row_hashes, rows_digest, split
from fraudops.errors import DataError
from fraudops.schema import FeatureSchema

Method = Literal["time", "stratified"]
METHODS: list[Method] = ["time", "stratified"]
SCHEMA = FeatureSchema.from_mapping(
    {
        "name": "two",
        "label": "fraud",
        "time": "at",
        "amount": "value",
        "features": [{"name": "value", "minimum": 0, "maximum": 9}],
    }
)


def dataset(time: list[float], value: list[float], fraud: list[int]) -> Dataset:
    frame = pd.DataFrame({"at": time, "value": value, "fraud": np.array(fraud, dtype=np.int8)})
    return Dataset(frame, SCHEMA, "a test", rows_digest(frame, SCHEMA))


def parts(result: Split) -> list[Dataset]:
    return [result.train, result.validation, result.test]


@pytest.mark.parametrize("method", METHODS)
def test_parts_are_60_20_and_20_percent(sample: Dataset, method: Method) -> None:
    result = split(sample, method)
    assert [round(len(part) / len(sample), 3) for part in parts(result)] == [0.6, 0.2, 0.2]
    assert (result.method, result.dropped_duplicates) == (method, 0)
    assert sum(map(len, parts(result))) + result.dropped_ties == len(sample)


def test_a_time_split_tests_on_the_future_only(sample: Dataset) -> None:
    train, validation, test = parts(split(sample))
    assert train.time.max() < validation.time.min()
    assert validation.time.max() < test.time.min()


def test_a_stratified_split_has_the_same_share_of_frauds_in_each_part(sample: Dataset) -> None:
    for part in parts(split(sample, "stratified")):
        assert part.frauds / len(part) == pytest.approx(sample.frauds / len(sample), rel=0.01)
        assert np.all(np.diff(part.time) >= 0)


def test_a_split_repeats_itself_and_a_stratified_one_follows_its_seed(sample: Dataset) -> None:
    def digests(method: Method, seed: int) -> list[str]:
        return [part.digest for part in parts(split(sample, method, seed))]

    assert digests("time", 1) == digests("time", 2)
    assert digests("stratified", 1) == digests("stratified", 1)
    assert digests("stratified", 1) != digests("stratified", 2)


def test_rows_at_the_time_of_the_cut_are_dropped_from_the_later_part() -> None:
    time = [
        0.0,
        1.0,
        2.0,
        3.0,
        4.0,
        5.0,
        5.0,
        5.0,
        7.0,
        7.0,
        8.0,
        9.0,
    ]  # 60 % of the rows end between two fives, 80 % after the sevens
    result = split(
        dataset(time, [float(value) for value in range(12)], [1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0])
    )
    assert result.train.time.tolist() == [0, 1, 2, 3, 4, 5, 5]
    assert result.validation.time.tolist() == [7, 7]
    assert result.test.time.tolist() == [8, 9]
    assert (result.dropped_ties, result.dropped_duplicates) == (1, 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_duplicate_across_parts_is_dropped_from_the_later_and_counted(
    made: Dataset, method: Method
) -> None:
    twice = made.take(np.repeat(np.arange(len(made)), 2))
    result = split(twice, method)
    hashes = [set(row_hashes(part).tolist()) for part in parts(result)]
    assert not hashes[0] & hashes[1]
    assert not (hashes[0] | hashes[1]) & hashes[2]
    assert sum(map(len, parts(result))) + result.dropped_duplicates + result.dropped_ties == len(
        twice
    )
    if method == "stratified":
        assert result.dropped_duplicates > 50


def test_duplicates_within_a_part_stay() -> None:
    time = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    result = split(dataset(list(map(float, time)), [1.0] * 10, [1, 1, 0, 0, 0, 0, 0, 1, 0, 1]))
    assert len(result.train) == 6
    assert result.dropped_duplicates == 0


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (0, "test part of the time split holds no fraud"),
        (1, "test part of the time split holds no genuine row"),
    ],
)
def test_a_part_without_both_classes_is_refused(made: Dataset, late: int, words: str) -> None:
    label = np.where(np.arange(len(made)) >= 240, late, made.y).astype(np.int8)
    rows = Dataset(made.frame.assign(is_fraud=label), made.schema, "a test", "")
    with pytest.raises(DataError, match=words) as refusal:
        split(rows)
    assert "stratified" in str(refusal.value)


def test_rows_of_one_time_cannot_be_split_by_time() -> None:
    with pytest.raises(DataError, match="validation part of the time split holds no rows"):
        split(dataset([5.0] * 10, list(map(float, range(10))), [0, 1] * 5))


@given(
    seed=st.integers(0, 10_000),
    method=st.sampled_from(METHODS),
    grid=st.sampled_from([1, 600, 7200]),
)
def test_no_row_is_in_two_parts_and_none_is_lost_uncounted(
    seed: int, method: Method, grid: int
) -> None:
    made = generate(120, seed, SCHEMA, fraud_rate=0.3).dataset
    frame = made.frame.assign(at=np.floor(made.time / grid) * grid, value=np.floor(made.amount))
    rows = Dataset(frame, SCHEMA, "a test", "")
    try:
        result = split(rows, method, seed)
    except DataError:
        return
    hashes = [set(row_hashes(part).tolist()) for part in parts(result)]
    assert not hashes[0] & hashes[1]
    assert not (hashes[0] | hashes[1]) & hashes[2]
    assert sum(map(len, parts(result))) + result.dropped_duplicates + result.dropped_ties == len(
        rows
    )
    if method == "time":
        assert result.train.time[-1] < result.validation.time[0]
        assert result.validation.time[-1] < result.test.time[0]
