"""Hashes, digests and weights of rows."""

import numpy as np
import pytest

from fraudops.datasets import Dataset, class_weights, row_hashes, rows_digest
from fraudops.errors import SettingsError


def test_equal_rows_have_equal_hashes_in_any_position(made: Dataset) -> None:
    order = np.random.default_rng(1).permutation(len(made))
    assert np.array_equal(row_hashes(made.take(order)), row_hashes(made)[order])


def test_every_column_of_a_row_counts_in_its_hash(made: Dataset) -> None:
    before = row_hashes(made)
    assert len(np.unique(before)) == len(made)
    for name in made.schema.columns:
        changed = made.take(np.arange(len(made)))
        changed.frame.loc[7, name] = 1 - changed.frame.loc[7, name]
        assert np.flatnonzero(row_hashes(changed) != before).tolist() == [7], name


def test_hashes_are_the_same_in_every_release(sample: Dataset) -> None:
    """Bundles store them: the gate for test rows in training compares them across releases."""
    assert row_hashes(sample)[:2].tolist() == [3550487775250687338, 14821136933924081788]


def test_zero_and_minus_zero_are_one(made: Dataset) -> None:
    zero, minus = made.take(np.arange(5)), made.take(np.arange(5))
    zero.frame["merchant_z"] = 0.0
    minus.frame["merchant_z"] = -0.0
    assert np.array_equal(row_hashes(zero), row_hashes(minus))


def test_a_digest_changes_with_every_value_and_with_the_order(made: Dataset) -> None:
    same = made.take(np.arange(len(made)))
    assert same.digest == rows_digest(made.frame, made.schema)
    assert made.take(np.arange(len(made))[::-1].copy()).digest != same.digest
    same.frame.loc[3, "velocity"] += 1e-9
    assert rows_digest(same.frame, same.schema) != made.digest


@pytest.mark.parametrize("prevalence", [0.0005, 0.001727, 0.1, 0.5])
def test_weighted_frauds_have_the_natural_share(sample: Dataset, prevalence: float) -> None:
    weights = class_weights(sample.y, prevalence)
    assert weights[sample.y == 1].sum() / weights.sum() == pytest.approx(prevalence, rel=1e-12)
    assert set(weights[sample.y == 1]) == {1.0}
    assert len(set(weights[sample.y == 0])) == 1


def test_without_a_prevalence_every_row_counts_once(sample: Dataset) -> None:
    assert set(class_weights(sample.y, None)) == {1.0}


@pytest.mark.parametrize("prevalence", [0.0, 1.0, float("nan")])
def test_a_prevalence_that_is_no_share_is_refused(prevalence: float) -> None:
    with pytest.raises(SettingsError, match="between 0 and 1"):
        class_weights(np.array([0, 1], dtype=np.int8), prevalence)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_alone_cannot_be_weighted(label: int) -> None:
    with pytest.raises(SettingsError, match="one class only"):
        class_weights(np.full(5, label, dtype=np.int8), 0.01)
