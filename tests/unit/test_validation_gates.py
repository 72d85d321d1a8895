"""The validation gates, from plain values."""

import dataclasses
import math

import pytest

from fraudops.model.manifest import Interval
from fraudops.validation import gates
from fraudops.validation.gates import GateResult, GateSettings, Parity

DEFAULT = GateSettings()


def around(value: float, width: float = 0.05) -> Interval:
    return Interval(value, value - width, value + width)


def metrics(roc_auc: float = 0.98, average_precision: float = 0.75) -> dict[str, Interval]:
    return {"roc_auc": around(roc_auc), "average_precision": around(average_precision)}


def passed(results: list[GateResult]) -> list[bool]:
    return [result.passed for result in results]


@pytest.mark.parametrize(
    ("roc_auc", "average_precision", "expected"),
    [
        (0.98, 0.75, [True, True]),
        (0.90, 0.60, [False, True]),
        (0.9001, 0.5999, [True, False]),
        (math.nan, math.nan, [False, False]),
    ],
)
def test_roc_auc_must_exceed_its_limit_and_average_precision_reach_it(
    roc_auc: float, average_precision: float, expected: list[bool]
) -> None:
    assert (
        passed(gates.discriminates(metrics(roc_auc, average_precision), DEFAULT, 0.0017))
        == expected
    )


def test_average_precision_says_at_which_prevalence_it_holds() -> None:
    assert "at prevalence 0.0017" in gates.discriminates(metrics(), DEFAULT, 0.0017)[1].detail
    assert "as collected" in gates.discriminates(metrics(), DEFAULT, None)[1].detail


def test_a_single_test_row_that_training_saw_fails() -> None:
    assert gates.untrained_on_test_rows(0, 1000, 3000).passed
    result = gates.untrained_on_test_rows(1, 1000, 3000)
    assert not result.passed
    assert "1 of 1,000 test rows" in result.detail


def test_a_bundle_that_names_no_training_row_fails() -> None:
    assert not gates.untrained_on_test_rows(0, 1000, 0).passed


@pytest.mark.parametrize(
    ("difference", "flips", "expected"),
    [
        (0.0, 0, [True, True]),
        (1e-6, 0, [True, True]),
        (2e-6, 0, [False, True]),
        (0.0, 1, [True, False]),
        (math.nan, 0, [False, True]),
    ],
)
def test_scorer_and_pipeline_agree_in_probability_and_in_every_decision(
    difference: float, flips: int, expected: list[bool]
) -> None:
    assert (
        passed(gates.scores_as_its_pipeline(Parity(difference, 1e-6, flips, 100), DEFAULT))
        == expected
    )


def test_a_bundle_cannot_allow_its_own_scorer_any_difference() -> None:
    assert passed(
        gates.scores_as_its_pipeline(Parity(0.01, tolerance=0.5, mismatches=0, rows=100), DEFAULT)
    ) == [False, True]


def test_a_slow_scorer_fails() -> None:
    assert gates.fast_enough(5.0, 200, DEFAULT).passed
    assert not gates.fast_enough(5.1, 200, DEFAULT).passed
    assert not gates.fast_enough(math.nan, 200, DEFAULT).passed


@pytest.mark.parametrize(
    ("lower", "expected"),
    [
        (-0.02, [True, True]),
        (-0.0201, [False, True]),
        (-0.11, [False, False]),
        (math.nan, [False, False]),
    ],
)
def test_the_lower_bound_of_the_difference_decides_and_not_the_difference(
    lower: float, expected: list[bool]
) -> None:
    difference = Interval(0.01, lower, 0.02)
    assert (
        passed(
            gates.not_worse({"roc_auc": difference, "average_precision": difference}, "3", DEFAULT)
        )
        == expected
    )


def test_a_comparison_that_was_not_made_says_why_either_way() -> None:
    for outcome in (True, False):
        results = gates.not_compared("another schema", DEFAULT, passed=outcome)
        assert passed(results) == [outcome, outcome]
        assert {result.detail for result in results} == {"another schema"}


def test_a_bundle_passes_only_without_a_fault() -> None:
    assert gates.intact(None, 6).passed
    altered = gates.intact("scorer.json has been altered")
    assert (altered.passed, altered.detail) == (False, "scorer.json has been altered")


def test_every_limit_is_a_setting() -> None:
    strict = GateSettings(
        roc_auc=0.99,
        average_precision=0.9,
        roc_auc_difference=0.0,
        average_precision_difference=0.0,
        latency_ms=0.001,
        scorer_difference=0.0,
        decision_flips=-1,
    )
    worse = around(0.01)
    results = [
        *gates.discriminates(metrics(), strict, None),
        *gates.scores_as_its_pipeline(Parity(1e-9, 1e-6, 0, 10), strict),
        gates.fast_enough(0.01, 10, strict),
        *gates.not_worse({"roc_auc": worse, "average_precision": worse}, "1", strict),
    ]
    assert passed(results) == [False] * 7
    limits = {getattr(strict, field.name) for field in dataclasses.fields(strict)}
    assert all(result.limit in limits for result in results)
