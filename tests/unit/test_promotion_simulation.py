"""A search for scenarios in which the promotion breaks a rule.

The search itself is tested: each rule is switched off alone, and the search must find that.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import pytest

from benchmarks.results import RESULTS
from tests.support.figures import PROOF, Figures
from tests.support.simulation.choices import Choices
from tests.support.simulation.founding import FOUNDINGS
from tests.support.simulation.rules_off import RULES_OFF
from tests.support.simulation.scenario import Scenario
from tests.support.simulation.shrink import fails, shrink
from tests.support.simulation.switch_off import Off, switched_off
from tests.support.simulation.world import Rules

SEEDS = 10_000 if PROOF else int(os.environ.get("SIMULATION_SEEDS", "100"))
SEARCH = 4000
PROCESSES = 2 if PROOF else 1
PRODUCT = Off()
OUTCOMES = {"done", "unchanged", "refused", "failed", "overtaken", "unconfirmed"}


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    measured = Figures("simulation", "Promotion, searched for violations")
    yield measured
    measured.write()


def test_every_rule_holds_in_every_seed(figures: Figures) -> None:
    began = processor_seconds()
    outcomes = sum(searched(SEEDS), Counter[str]())
    # The outcomes of a search that never meets its subject would be few.
    assert outcomes["done"] > SEEDS / 2, outcomes
    assert outcomes.keys() >= OUTCOMES, outcomes
    figures.note(
        "seeds without a violation",
        f"{SEEDS}; acts that ended "
        + ", ".join(f"{outcome} {times}" for outcome, times in sorted(outcomes.items())),
    )
    seconds = processor_seconds() - began
    figures.note("seeds per minute of processor time", round(SEEDS / seconds * 60))


def test_every_rule_holds_when_pods_are_ready_before_the_first_promotion() -> None:
    off = Off(rules=Rules(ready_without_model=True))
    empty = [seed for seed in range(SEEDS) if founding_of(seed) == "empty"]
    assert len(empty) > SEEDS / 20
    for seed in empty:
        if fails(partial(off.build, seed)):
            pytest.fail(short_story(off, seed), pytrace=False)


def founding_of(seed: int) -> str:
    return Choices(seed, frozenset()).pick(FOUNDINGS, "founding")


def processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.children_user


def searched(seeds: int) -> list[Counter[str]]:
    """Return the outcomes of all seeds. Fails with the short trace of the first violation."""
    if PROCESSES == 1:
        return [outcomes_of(range(seeds))]
    ranges = [range(first, seeds, PROCESSES) for first in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES) as processes:
        return list(processes.map(outcomes_of, ranges))


def outcomes_of(seeds: range) -> Counter[str]:
    outcomes = Counter[str]()
    for seed in seeds:
        scenario = PRODUCT.build(seed)
        try:
            scenario.run()
        except AssertionError:
            pytest.fail(short_story(PRODUCT, seed), pytrace=False)
        outcomes.update(result.outcome for result in scenario.runner.results.values())
    return outcomes


def short_story(off: Off, seed: int) -> str:
    """Return the trace of the seed's violation, with as few events as the search can find."""

    def build(without: frozenset[str]) -> Scenario:
        return off.build(seed, without)

    failure = fails(build)
    assert failure is not None
    return f"seed {seed}\n{shrink(build, failure).story}"


def recorded_seed(rule: str) -> int:
    """Return the seed that `make proof` recorded for this rule, or 0.

    A search from that seed ends soon while the scenarios are unchanged. After a change it goes on.
    """
    table = json.loads((RESULTS / "simulation.json").read_text())["tables"][0]
    recorded = dict(table["rows"]).get(f"switched off: {rule}", "")
    match = re.match(r"found in seed (\d+):", recorded)
    return int(match[1]) if match else 0


@pytest.mark.parametrize("rule", RULES_OFF)
def test_the_search_finds_a_violation_when_a_rule_is_switched_off(
    rule: str, figures: Figures
) -> None:
    first = 0 if PROOF else recorded_seed(rule)
    with switched_off(RULES_OFF[rule]):
        found = RULES_OFF[rule].search((*range(first, SEARCH), *range(first)))
    assert found, f"no violation in {SEARCH} seeds: the search is blind to this rule"
    seed, failure = found
    # The same weather breaks nothing while the rule is on.
    assert fails(lambda without: Off(odds=RULES_OFF[rule].odds).build(seed, without)) is None
    figures.note(f"switched off: {rule}", f"found in seed {seed}: {failure.violation}")


def test_a_failing_seed_is_shrunk_to_a_short_story() -> None:
    rule = RULES_OFF["silence is not consent"]
    with switched_off(rule):
        found = rule.search(range(SEARCH))
        assert found
        seed, failure = found
        shrunk = shrink(lambda without: rule.build(seed, without), failure)
    assert shrunk.violation.rule == failure.violation.rule
    assert len(shrunk.events) < len(failure.events)
    assert len(shrunk.story.splitlines()) <= 41
    assert "violated: " in shrunk.story.splitlines()[-1]
