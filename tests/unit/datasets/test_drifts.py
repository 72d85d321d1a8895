"""The named drifts over real and generated rows.

They are measured as by the drift report: PSI against the validation slice.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from fraudops.datasets import DRIFTS, Dataset, DriftName, Split, generate, overlay, split
from fraudops.datasets.checks import first_fault
from fraudops.datasets.traffic import spread_rows
from fraudops.errors import SettingsError
from fraudops.schema import FeatureSchema

THRESHOLD = 0.2


def psi(reference: NDArray[np.float64], current: NDArray[np.float64]) -> float:
    """Population stability index over the deciles of the reference.

    An empty bin counts as a share of 0.0001.
    """
    inner = np.unique(np.quantile(reference, np.linspace(0, 1, 11)))[1:-1]
    shares = [
        np.bincount(np.searchsorted(inner, values, "right"), minlength=len(inner) + 1) / len(values)
        for values in (reference, current)
    ]
    expected, actual = (np.clip(share, 1e-4, None) for share in shares)
    return float(((actual - expected) * np.log(actual / expected)).sum())


def psis(reference: Dataset, current: Dataset) -> dict[str, float]:
    return {
        name: psi(reference.x[:, index], current.x[:, index])
        for index, name in enumerate(reference.schema.names)
    }


def sent(rows: Dataset, count: int = 1000) -> Dataset:
    """Return the rows that `simulate --rows` sends."""
    return rows.take(spread_rows(len(rows), count, 7))


@pytest.fixture(scope="module", params=["sample", "generated", "bank"])
def parts(request: pytest.FixtureRequest, sample: Dataset, bank: FeatureSchema) -> Split:
    rows = {
        "sample": sample,
        "generated": generate(20_000, 7, fraud_rate=0.01).dataset,
        "bank": generate(20_000, 7, bank, fraud_rate=0.01).dataset,
    }
    return split(rows[request.param])


@pytest.mark.parametrize("count", [1000, 2000])
def test_undrifted_rows_stay_below_the_threshold_on_every_feature(parts: Split, count: int) -> None:
    assert max(psis(parts.validation, sent(parts.test, count)).values()) < THRESHOLD / 2


@pytest.mark.parametrize("seed", [1, 7])
def test_covariate_drift_is_far_beyond_the_threshold_on_several_features(
    parts: Split, seed: int
) -> None:
    drifted, affected = overlay(parts.test, "covariate", seed)
    values = psis(parts.validation, sent(drifted))
    several = max(2, round((len(values) - 1) / 3))
    assert sum(value > 1.5 * THRESHOLD for value in values.values()) >= several
    assert values[parts.test.schema.amount] < THRESHOLD
    assert affected.all()
    assert np.array_equal(drifted.y, parts.test.y)


def test_amount_inflation_moves_the_amount_alone(parts: Split) -> None:
    drifted, affected = overlay(parts.test, "amount-inflation", 7)
    values = psis(parts.validation, sent(drifted))
    amount = parts.test.schema.amount
    assert values.pop(amount) > THRESHOLD
    assert max(values.values()) < THRESHOLD
    assert np.array_equal(affected, drifted.amount != parts.test.amount)
    assert np.median(drifted.amount) == pytest.approx(3 * np.median(parts.test.amount), rel=0.01)


def test_a_new_fraud_pattern_is_not_seen_by_psi_but_by_labels(parts: Split) -> None:
    drifted, affected = overlay(parts.test, "new-fraud-pattern", 7)
    assert max(psis(parts.validation, sent(drifted)).values()) < THRESHOLD
    assert affected.sum() == round(len(drifted) * 0.01)
    assert drifted.y[affected].all()
    assert not parts.test.y[affected].any()
    assert np.array_equal(drifted.x[~affected], parts.test.x[~affected])
    assert (drifted.x[affected] != parts.test.x[affected]).any(axis=1).all()


@pytest.mark.parametrize("drift", DRIFTS)
@pytest.mark.parametrize("strength", [0.5, 10.0])
def test_drifted_rows_still_fit_the_schema(parts: Split, drift: DriftName, strength: float) -> None:
    drifted, _affected = overlay(parts.test, drift, 3, strength)
    schema = drifted.schema
    assert (
        first_fault(
            {name: drifted.frame[name].to_numpy(dtype=float) for name in schema.columns}, schema
        )
        is None
    )
    assert drifted.frame[schema.label].dtype == np.int8
    assert f"{drift} drift" in drifted.source
    assert drifted.digest != parts.test.digest


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_drift_repeats_itself_leaves_its_input_alone_and_grows_with_its_strength(
    sample: Dataset, drift: DriftName
) -> None:
    before = sample.frame.copy()
    one, _affected = overlay(sample, drift, 7)
    assert overlay(sample, drift, 7)[0].digest == one.digest
    assert sample.frame.equals(before)
    assert one.sample, "a drifted sample is still called a sample"
    weak, strong = (overlay(sample, drift, 7, strength) for strength in (0.5, 2.0))
    moved = [np.abs(rows.x - sample.x).sum() for rows in (weak[0], one, strong[0])]
    assert moved == sorted(moved)
    untouched, none = overlay(sample, drift, 7, 0.0)
    assert untouched.digest == sample.digest
    assert not none.any()


def test_an_unknown_drift_or_strength_is_refused(made: Dataset) -> None:
    with pytest.raises(
        SettingsError, match="known are covariate, new-fraud-pattern, amount-inflation"
    ):
        overlay(made, "gradual", 7)  # type: ignore[arg-type]
    for strength in (-1.0, 11.0, float("nan")):
        with pytest.raises(SettingsError, match="between 0 and 10"):
            overlay(made, "covariate", 7, strength)


def test_a_replay_is_evenly_spaced_in_time_order_or_drawn_with_replacement() -> None:
    assert spread_rows(10, 4, 7).tolist() == [0, 3, 6, 9]
    assert spread_rows(10, 10, 7).tolist() == list(range(10))
    more = spread_rows(10, 30, 7)
    assert len(more) == 30
    assert np.all(np.diff(more) >= 0)
    assert set(more) <= set(range(10))
    assert np.array_equal(more, spread_rows(10, 30, 7))
