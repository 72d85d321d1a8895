"""The arithmetic of every stated figure."""

import math
import random
from pathlib import Path

import pytest

from benchmarks import results, soak
from benchmarks.commands import BenchmarkPlan
from benchmarks.generators import GENERATORS
from benchmarks.latencies import Latencies
from benchmarks.results import Table
from benchmarks.spread import Claim, ratio, short, spread

PLAN = BenchmarkPlan(3, 5.0, GENERATORS["bundled"], quick=True)


def test_a_spread_is_the_median_with_its_range() -> None:
    measured = spread([5.0, 1.0, 3.0])
    assert (measured.median, measured.least, measured.most) == (3.0, 1.0, 5.0)
    assert str(measured) == "3 (1 to 5)"
    assert str(spread([3.0])) == "3"


def test_no_measurement_has_no_median() -> None:
    with pytest.raises(ValueError, match="no measurement"):
        spread([])


def test_a_ratio_is_taken_round_by_round() -> None:
    """A round that slows both gives the same ratio. The ratio of the medians would be 2."""
    measured = ratio([10.0, 100.0, 40.0], [20.0, 200.0, 10.0])
    assert measured.values == (0.5, 0.5, 4.0)
    assert measured.median == 0.5


def test_a_ratio_needs_both_of_every_round() -> None:
    with pytest.raises(ValueError):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.00123, "0.00123"), (4.567, "4.57"), (12.34, "12.3"), (45678.9, "45,679")],
)
def test_figures_have_three_digits_that_count(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("side", "bound", "holds"),
    [
        ("at least", 2.0, True),
        ("at least", 2.1, False),
        ("at most", 2.0, True),
        ("at most", 1.9, False),
    ],
)
def test_a_claim_holds_by_its_median(side: str, bound: float, holds: bool) -> None:
    claim = Claim(
        "faster", spread([1.0, 2.0, 9.0]), bound, "at least" if side == "at least" else "at most"
    )
    assert claim.holds is holds


def test_percentiles_are_within_one_per_cent_of_the_true_ones() -> None:
    draw = random.Random(7)
    values = sorted(draw.lognormvariate(-7.5, 1.0) for _ in range(20_000))
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    for share in (0.5, 0.9, 0.99, 0.999):
        true = values[math.ceil(share * len(values)) - 1] * 1000
        assert latencies.percentile_ms(share) == pytest.approx(true, rel=0.01)


def test_latencies_together_are_those_of_each() -> None:
    one, other = Latencies(), Latencies()
    for _ in range(99):
        one.add(0.001)
    other.add(1.0)
    one.include(other)
    assert one.count == 100
    assert one.percentile_ms(0.99) == pytest.approx(1.0, rel=0.01)
    assert one.percentile_ms(1.0) == pytest.approx(1000.0, rel=0.01)


def test_zero_and_endless_latencies_are_counted_too() -> None:
    latencies = Latencies()
    assert math.isnan(latencies.percentile_ms(0.5))
    latencies.add(0.0)
    latencies.add(1e9)
    assert latencies.percentile_ms(0.5) < 0.0011
    assert latencies.percentile_ms(1.0) > 1e6


def test_growth_leaves_the_warm_up_out() -> None:
    assert soak.growth([1.0] * 4 + [2.0] * 4 + [9.0] * 12 + [3.0] * 4) == 1.5
    assert soak.growth([2.0, 5.0, 3.0]) == 1.5


def test_a_quick_run_says_that_its_figures_mean_nothing() -> None:
    result = results.begin("some", "Some figures", PLAN, connections=16)
    result.tables = [Table("Them", ("subject", "figure"), [("one", "1"), ("two", "2")])]
    result.claims = [Claim("faster", spread([1.0]), 2.0, "at least")]
    text = results.markdown(result)
    assert "Its figures mean nothing" in text
    assert "| faster | at least 2 | 1 | **no** |" in text
    assert "| two | 2 |" in text
    assert "Rounds 3, seconds 5.0, load generator bundled, connections 16." in text


def test_a_result_states_commit_and_machine(tmp_path: Path) -> None:
    result = results.begin("some", "Some figures", PLAN)
    stem = results.write(result, tmp_path / "results")
    written = results.read(stem.with_suffix(".json"))
    assert written.commit == result.commit
    assert written.machine.cores >= 1
    assert stem.with_suffix(".md").read_text().startswith("# Some figures")
