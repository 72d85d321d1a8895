from datetime import UTC, datetime, timedelta
from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudops.drift.psi import ColumnDrift, decision_rate, join_windows, judge, psi


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def psi_by_hand(reference: list[float], current: list[float]) -> float:
    """The definition, value by value: deciles of the reference, shares of at least 0.0001."""
    ordered = np.sort(reference)
    deciles = [
        float(np.interp(share / 10 * (len(ordered) - 1), range(len(ordered)), ordered))
        for share in range(1, 10)
    ]
    total = 0.0
    for low, high in zip([float("-inf"), *deciles], [*deciles, float("inf")], strict=True):
        p = max(sum(low < value <= high for value in reference) / len(reference), 1e-4)
        q = max(sum(low < value <= high for value in current) / len(current), 1e-4)
        total += (p - q) * log(p / q)
    return total


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 8.0])
def test_psi_is_its_definition_over_the_deciles_of_the_reference(
    rng: np.random.Generator, shift: float
) -> None:
    reference, current = rng.normal(size=700), rng.normal(shift, 1.2, size=500)
    assert psi(reference, current) == pytest.approx(
        psi_by_hand(list(reference), list(current)), rel=1e-9
    )


def test_psi_of_a_sample_with_itself_is_zero(rng: np.random.Generator) -> None:
    sample = rng.lognormal(3, 2, 400)
    assert psi(sample, sample) == 0.0


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.1, 5),
    st.sampled_from([np.exp, lambda x: x**3, lambda x: 5 * x - 2]),
)
def test_psi_does_not_change_under_a_monotone_transformation(
    seed: int, scale: float, transform
) -> None:
    source = np.random.default_rng(seed)
    # With 11 k + 1 rows every decile is a value of the sample, so both sides have the same bins.
    reference, current = source.normal(size=331), source.normal(0.5, scale, size=200)
    assert psi(transform(reference), transform(current)) == pytest.approx(
        psi(reference, current), abs=1e-9
    )


def test_psi_without_drift_stays_far_below_the_threshold_at_the_minimum_of_rows(
    rng: np.random.Generator,
) -> None:
    values = [psi(rng.lognormal(3, 2, 5000), rng.lognormal(3, 2, 500)) for _ in range(200)]
    assert max(values) < 0.1


def test_one_far_value_does_not_hide_a_shift(rng: np.random.Generator) -> None:
    reference, current = rng.normal(size=2000), rng.normal(1, 1, size=2000)
    current[0] = 1e9
    assert psi(reference, current) > 0.5


def test_a_constant_that_moves_is_seen_in_either_direction() -> None:
    constant = np.full(600, 3.0)
    assert psi(constant, constant) == 0.0
    assert psi(constant, np.full(600, 2.0)) > 5
    assert psi(constant, np.full(600, 4.0)) > 5


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_flag_column_is_compared_value_by_value(share: float) -> None:
    reference = (np.arange(1000) < 1000 * share).astype(float)
    assert psi(reference, reference[::2]) == pytest.approx(0.0, abs=1e-12)
    moved = (np.arange(1000) < 1000 * (0.5 if share != 0.5 else 0.1)).astype(float)
    assert psi(reference, moved) > 0.5


def column(value: float, name: str = "V1") -> ColumnDrift:
    return ColumnDrift(name, value, 0.2)


def test_one_column_above_its_threshold_warns_once_and_alarms_in_the_second_window_running() -> (
    None
):
    columns = [column(0.01), column(0.21), *(column(0.0) for _ in range(27))]
    assert judge(500, 500, columns, exceeded_before=False) == "warning"
    assert judge(500, 500, columns, exceeded_before=True) == "alarm"


def test_the_score_alone_is_enough_to_alarm() -> None:
    assert (
        judge(500, 500, [column(0.0), column(0.3, "fraud_probability")], exceeded_before=True)
        == "alarm"
    )


def test_a_window_below_the_thresholds_has_no_drift_whatever_came_before() -> None:
    assert judge(5000, 500, [column(0.2), column(0.199)], exceeded_before=True) == "none"


def test_too_few_rows_are_never_judged() -> None:
    assert judge(499, 500, [column(9.0)], exceeded_before=True) == "not enough rows"


def test_the_wilson_interval_agrees_with_published_values() -> None:
    # Source: Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for positives, rows, lower, upper in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        rate = decision_rate(rows, positives, 0.1)
        assert (round(rate.lower, 4), round(rate.upper, 4)) == (lower, upper)


def test_the_decision_rate_says_on_which_side_of_the_expectation_its_interval_lies() -> None:
    assert decision_rate(2000, 24, 0.002).position == "above"
    assert decision_rate(2000, 4, 0.002).position == "as expected"
    assert decision_rate(20_000, 4, 0.002).position == "below"
    assert decision_rate(0, 0, 0.002).position == "as expected"


NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.mark.parametrize("late", [timedelta(seconds=-40), timedelta(0), timedelta(minutes=20)])
def test_a_scheduled_window_begins_where_the_one_before_it_ended(late: timedelta) -> None:
    previous_end = NOON - DAY
    assert join_windows(NOON + late - DAY, NOON + late, previous_end) == previous_end


def test_a_requested_window_keeps_its_start() -> None:
    assert join_windows(NOON - DAY, NOON, NOON - DAY / 2) == NOON - DAY
    assert join_windows(NOON - DAY, NOON, None) == NOON - DAY
