"""Generated transactions look like transactions, for any schema."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudops.datasets import Dataset, GeneratedDataset, generate
from fraudops.datasets.checks import first_fault
from fraudops.datasets.fraud_patterns import DAY_SECONDS, GENUINE, PATTERNS
from fraudops.datasets.generator import place
from fraudops.errors import SettingsError
from fraudops.schema import Feature, FeatureSchema, load_schema


@pytest.fixture(scope="module")
def ulb() -> GeneratedDataset:
    return generate(20_000, seed=3, fraud_rate=0.03)


def night_share(time: np.ndarray) -> float:
    """Return the share of rows between midnight and 6 h."""
    return float((time % DAY_SECONDS < DAY_SECONDS / 4).mean())


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(bank: FeatureSchema) -> None:
    assert generate(500, 1, bank).dataset.digest == generate(500, 1, bank).dataset.digest
    assert generate(500, 1, bank).dataset.digest != generate(500, 2, bank).dataset.digest


def test_the_ground_truth_names_the_pattern_of_every_fraud(ulb: GeneratedDataset) -> None:
    assert np.array_equal(ulb.pattern != GENUINE, ulb.dataset.y == 1)
    assert set(ulb.pattern) == {GENUINE, *(pattern.name for pattern in PATTERNS)}
    assert ulb.dataset.frauds == 600
    assert ulb.dataset.source == "generated (seed 3)"
    assert not ulb.dataset.sample


def test_components_have_heavier_tails_than_a_normal(ulb: GeneratedDataset) -> None:
    genuine = ulb.dataset.x[ulb.dataset.y == 0]
    for column in range(28):
        values = (genuine[:, column] - genuine[:, column].mean()) / genuine[:, column].std()
        assert (values**4).mean() > 3.5
    assert np.abs(np.corrcoef(genuine[:, :28].T) - np.eye(28)).max() > 0.1


def test_amounts_are_log_normal_in_cents(ulb: GeneratedDataset) -> None:
    amounts = ulb.dataset.amount[ulb.dataset.y == 0]
    logs = np.log(amounts[amounts > 1])
    assert 15 < np.median(amounts) < 30
    assert amounts.mean() > 2.5 * np.median(amounts)
    assert abs(np.log(amounts[amounts > 0]).std() - 1.7) < 0.1
    assert logs.max() > np.log(2000)
    assert np.allclose(amounts * 100, np.round(amounts * 100), atol=1e-6)


def test_days_are_busier_than_nights(ulb: GeneratedDataset) -> None:
    assert night_share(ulb.dataset.time[ulb.dataset.y == 0]) < 0.15
    assert night_share(ulb.dataset.time[ulb.pattern == "stolen-card"]) > 0.3
    assert ulb.dataset.time[0] >= 0
    assert ulb.dataset.time[-1] <= 2 * DAY_SECONDS


def test_patterns_differ_in_amount_and_hour(ulb: GeneratedDataset) -> None:
    median = {
        pattern.name: np.median(ulb.dataset.amount[ulb.pattern == pattern.name])
        for pattern in PATTERNS
    }
    assert median["card-testing"] < 2 < 100 < median["account-takeover"]


def test_card_testing_comes_in_bursts(ulb: GeneratedDataset) -> None:
    testing = ulb.dataset.time[ulb.pattern == "card-testing"]
    takeover = ulb.dataset.time[ulb.pattern == "account-takeover"]
    assert (
        np.median(np.diff(testing)) * len(testing)
        < np.median(np.diff(takeover)) * len(takeover) / 1.5
    )


def test_a_model_of_one_seed_ranks_the_rows_of_another(bank: FeatureSchema) -> None:
    """The model is the direction from genuine rows to frauds."""
    for schema in (load_schema(), bank):
        first, second = (generate(5000, seed, schema, fraud_rate=0.05).dataset for seed in (1, 2))
        scale = first.x.std(axis=0)
        direction = (
            first.x[first.y == 1].mean(axis=0) - first.x[first.y == 0].mean(axis=0)
        ) / scale
        score = second.x / scale @ direction
        order = score.argsort().argsort()
        frauds = second.frauds
        area = (order[second.y == 1].sum() - frauds * (frauds - 1) / 2) / (
            frauds * (len(second) - frauds)
        )
        assert area > 0.95, schema.name


def test_features_depend_on_one_another_in_the_same_way_for_every_seed() -> None:
    first, second = (np.corrcoef(generate(5000, seed).dataset.x[:, :28].T) for seed in (1, 2))
    assert np.abs(first - second).max() < 0.2
    assert np.abs(first - np.eye(28)).max() > 0.3


@pytest.mark.parametrize(("minimum", "maximum"), [(-1, 1), (-500, 2), (0, 1), (5, 6)])
def test_the_oddest_score_is_still_inside_the_range(minimum: float, maximum: float) -> None:
    values = place(Feature("value", minimum, maximum), np.array([-90.0, 0.0, 90.0]), 0)
    assert minimum <= values.min() < values.max() <= maximum


def test_every_pattern_but_the_lookalike_is_far_from_genuine_rows(ulb: GeneratedDataset) -> None:
    scores = ulb.dataset.x[:, :28] / ulb.dataset.x[ulb.dataset.y == 0][:, :28].std(axis=0)
    distance = {
        name: float(np.linalg.norm(scores[ulb.pattern == name].mean(axis=0)))
        for name in set(ulb.pattern)
    }
    assert (
        distance["lookalike"]
        < min(distance["card-testing"], distance["account-takeover"], distance["stolen-card"]) / 2
    )


names = st.lists(st.from_regex(r"[a-z]{3,8}", fullmatch=True), min_size=1, max_size=7, unique=True)
bounds = st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)


@settings(max_examples=60, deadline=None)
@given(
    features=names,
    ranges=st.lists(bounds, min_size=7, max_size=7),
    rows=st.integers(2, 300),
    seed=st.integers(0, 99),
)
def test_any_schema_gets_values_inside_its_ranges(
    features: list[str], ranges: list[tuple[float, float]], rows: int, seed: int
) -> None:
    listed = [
        {"name": name, "minimum": low, "maximum": high}
        for name, (low, high) in zip(features, ranges, strict=False)
    ]
    raw = {
        "name": "any",
        "label": "is_fraud_",
        "time": "at_",
        "amount": features[-1],
        "features": listed,
    }
    schema = FeatureSchema.from_mapping(raw)
    made: Dataset = generate(rows, seed, schema, fraud_rate=0.1).dataset
    assert len(made) == rows
    assert made.frauds == max(1, round(rows * 0.1))
    assert (
        first_fault(
            {name: made.frame[name].to_numpy(dtype=float) for name in schema.columns}, schema
        )
        is None
    )


@pytest.mark.parametrize(
    "change", [{"rows": 1}, {"fraud_rate": 0.0}, {"fraud_rate": 1.0}, {"days": 0.0}]
)
def test_invalid_arguments_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match="the generator needs"):
        generate(**({"rows": 100, "seed": 1} | change))  # type: ignore[arg-type]
