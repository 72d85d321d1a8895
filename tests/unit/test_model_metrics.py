from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from fraudops.errors import DataError
from fraudops.model.costs import Costs
from fraudops.model.metrics import choose_threshold, evaluate, paired_difference
from fraudops.model.ranking import curve


def sample(
    seed: int = 0, rows: int = 3000, frauds: int = 60, ties: bool = False
) -> tuple[np.ndarray, ...]:
    """Return labels, probabilities, weights and amounts; a genuine row has the weight 7.9."""
    random = np.random.default_rng(seed)
    y = np.zeros(rows, np.int8)
    y[random.choice(rows, frauds, replace=False)] = 1
    probability = 1 / (1 + np.exp(-random.normal(y * 3.0 - 4, 1.5)))
    return (
        y,
        np.round(probability, 2) if ties else probability,
        np.where(y == 1, 1.0, 7.9),
        random.lognormal(3, 1, rows),
    )


@pytest.mark.parametrize("ties", [False, True])
def test_weighted_roc_auc_and_average_precision_are_scikit_learns(ties: bool) -> None:
    y, probability, weights, amount = sample(ties=ties)
    metrics = evaluate(y, probability, weights, amount, 0.3)
    assert metrics["roc_auc"].value == pytest.approx(
        roc_auc_score(y, probability, sample_weight=weights), abs=1e-12
    )
    assert metrics["average_precision"].value == pytest.approx(
        average_precision_score(y, probability, sample_weight=weights), abs=1e-12
    )


def test_recall_at_precision_is_the_best_recall_on_scikit_learns_curve() -> None:
    y, probability, weights, amount = sample()
    precision, recall, _ = precision_recall_curve(y, probability, sample_weight=weights)
    assert evaluate(y, probability, weights, amount, 0.3)[
        "recall_at_precision_0_80"
    ].value == pytest.approx(recall[precision >= 0.80].max())


def test_recall_at_precision_is_zero_when_no_threshold_is_that_precise() -> None:
    y = np.array([1, 0, 0, 0])
    assert (
        evaluate(y, np.full(4, 0.5), np.ones(4), np.ones(4), 0.4)["recall_at_precision_0_80"].value
        == 0.0
    )


def test_metrics_at_the_threshold_count_what_a_hand_counts() -> None:
    y = np.array([1, 1, 0, 0, 0])
    probability = np.array([0.9, 0.1, 0.8, 0.2, 0.3])
    weights = np.array([1.0, 1.0, 2.0, 2.0, 2.0])
    amount = np.array([50.0, 70.0, 1.0, 1.0, 1.0])
    metrics = evaluate(y, probability, weights, amount, 0.8, Costs(fee=15, review=5))
    assert metrics["precision"].value == pytest.approx(1 / 3)
    assert metrics["recall"].value == pytest.approx(1 / 2)
    assert metrics["decision_rate"].value == pytest.approx(3 / 8)
    assert metrics["cost_per_transaction"].value == pytest.approx((3 * 5 + 70 + 15) / 8)


def test_calibration_error_is_the_weighted_gap_by_bin() -> None:
    y = np.array([1, 0, 0, 0])
    probability = np.array([0.95, 0.05, 0.05, 0.95])
    weights = np.array([1.0, 2.0, 2.0, 1.0])
    expected = (4 * 0.05 + 2 * (0.95 - 0.5)) / 6
    assert evaluate(y, probability, weights, np.ones(4), 0.5)[
        "calibration_error"
    ].value == pytest.approx(expected)


def test_calibrated_probabilities_have_less_calibration_error_than_doubled_ones() -> None:
    random = np.random.default_rng(3)
    probability = random.uniform(0, 0.5, 20_000)
    y = (random.uniform(size=20_000) < probability).astype(np.int8)
    ones = np.ones(20_000)
    calibrated, doubled = (
        evaluate(y, values, ones, ones, 0.5, resamples=20)["calibration_error"]
        for values in (probability, 2 * probability)
    )
    assert calibrated.upper < 0.02 < doubled.lower


def test_every_interval_holds_its_value_and_is_the_same_for_the_same_seed() -> None:
    y, probability, weights, amount = sample()
    metrics = evaluate(y, probability, weights, amount, 0.3, seed=5)
    assert set(metrics) == {
        "roc_auc",
        "average_precision",
        "recall_at_precision_0_80",
        "cost_per_transaction",
        "calibration_error",
        "precision",
        "recall",
        "decision_rate",
    }
    for name in ("roc_auc", "average_precision", "recall", "decision_rate", "cost_per_transaction"):
        assert metrics[name].lower < metrics[name].value < metrics[name].upper, name
    assert evaluate(y, probability, weights, amount, 0.3, seed=5) == metrics
    assert evaluate(y, probability, weights, amount, 0.3, seed=6) != metrics


def test_the_interval_of_roc_auc_is_that_of_a_loop_over_scikit_learn() -> None:
    y, probability, weights, amount = sample()
    random = np.random.default_rng(1)
    frauds, genuine = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    drawn = [
        np.concatenate([random.choice(frauds, len(frauds)), random.choice(genuine, len(genuine))])
        for _ in range(400)
    ]
    lower, upper = np.percentile(
        [roc_auc_score(y[rows], probability[rows], sample_weight=weights[rows]) for rows in drawn],
        [2.5, 97.5],
    )
    interval = evaluate(y, probability, weights, amount, 0.3, resamples=400)["roc_auc"]
    assert (interval.lower, interval.upper) == pytest.approx((lower, upper), abs=0.006)


def test_resamples_in_many_chunks_give_intervals_too(monkeypatch: pytest.MonkeyPatch) -> None:
    y, probability, weights, amount = sample()
    in_one_chunk = evaluate(y, probability, weights, amount, 0.3)["roc_auc"]
    monkeypatch.setattr("fraudops.model.metrics.CELLS", 1)
    chunked = evaluate(y, probability, weights, amount, 0.3)["roc_auc"]
    assert chunked.value == in_one_chunk.value
    assert chunked.lower == pytest.approx(in_one_chunk.lower, abs=0.01)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision"])
def test_a_model_compared_with_itself_differs_by_nothing(metric: str) -> None:
    y, probability, weights, _ = sample()
    difference = paired_difference(
        y,
        probability,
        probability,
        weights,
        metric,  # type: ignore[arg-type]
    )
    assert (difference.value, difference.lower, difference.upper) == (0, 0, 0)


def test_a_better_candidate_has_a_positive_lower_bound_and_a_worse_one_a_negative_upper_bound() -> (
    None
):
    y, probability, weights, _ = sample()
    worse = probability + np.random.default_rng(9).normal(0, 0.3, len(y))
    assert paired_difference(y, probability, worse, weights, "average_precision").lower > 0
    assert paired_difference(y, worse, probability, weights, "average_precision").upper < 0


def test_paired_differences_are_tighter_than_unpaired_ones() -> None:
    y, probability, weights, amount = sample()
    other = probability + np.random.default_rng(9).normal(0, 0.01, len(y))
    paired = paired_difference(y, probability, other, weights, "roc_auc")
    alone = evaluate(y, probability, weights, amount, 0.3)["roc_auc"]
    assert paired.upper - paired.lower < (alone.upper - alone.lower) / 2


def brute_force_cost(
    y: np.ndarray,
    probability: np.ndarray,
    weights: np.ndarray,
    amount: np.ndarray,
    threshold: float,
) -> float:
    flagged = probability >= threshold
    return float((weights * np.where(flagged, 5.0, np.where(y == 1, amount + 15.0, 0.0))).sum())


def test_the_threshold_costs_about_as_little_as_the_best_one() -> None:
    y, probability, weights, amount = sample(rows=6000, frauds=150)
    best = min(
        brute_force_cost(y, probability, weights, amount, threshold)
        for threshold in np.linspace(0, 1, 500)
    )
    chosen = choose_threshold(y, probability, weights, amount)
    assert brute_force_cost(y, probability, weights, amount, chosen) < 1.05 * best


def test_the_threshold_goes_down_to_a_fraud_that_is_dear_to_miss_and_stays_above_a_cheap_one() -> (
    None
):
    y = np.tile([0, 1, 0, 0, 0, 1], 50)
    probability = np.tile([0.1, 0.2, 0.4, 0.4, 0.4, 0.8], 50)
    amount = np.tile([9.0, 0.0, 9.0, 9.0, 9.0, 0.0], 50)
    assert choose_threshold(y, probability, np.ones(300), amount) == pytest.approx(0.6)
    assert choose_threshold(
        y, probability, np.ones(300), np.where(probability == 0.2, 100.0, amount)
    ) == pytest.approx(0.15)


def test_dearer_reviews_raise_the_threshold() -> None:
    y, probability, weights, amount = sample()
    cheap, dear = (
        choose_threshold(y, probability, weights, amount, Costs(review=review))
        for review in (1.0, 25.0)
    )
    assert 0 < cheap < dear < 1


def test_free_reviews_flag_everything_and_reviews_beyond_any_loss_flag_nothing() -> None:
    y, probability, weights, amount = sample()
    assert (
        choose_threshold(y, probability, weights, amount, Costs(review=0.0))
        < probability[y == 1].min()
    )
    assert choose_threshold(y, probability, weights, amount, Costs(review=1e9)) > probability.max()


def test_the_threshold_stays_a_probability_when_the_best_is_at_either_end() -> None:
    y, _, weights, amount = sample()
    certain = y.astype(np.float64)
    assert choose_threshold(y, certain, weights, amount, Costs(review=1e9)) == 1.0
    assert 0 < choose_threshold(y, 1 - certain, weights, amount, Costs(review=0.0)) < 1e-9


@pytest.mark.parametrize(
    "call",
    [
        lambda y: evaluate(y, *[np.full(4, 0.5)] * 3, 0.5),
        lambda y: choose_threshold(y, *[np.full(4, 0.5)] * 3),
    ],
)
@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_one_class_are_refused(call: Callable[[np.ndarray], object], label: int) -> None:
    with pytest.raises(DataError, match=f"4 rows with {4 * label} frauds"):
        call(np.full(4, label))


def test_a_probability_that_is_no_number_is_refused() -> None:
    with pytest.raises(DataError, match="not a finite number"):
        curve(np.array([0, 1]), np.array([np.nan, 0.5]), np.ones(2))
