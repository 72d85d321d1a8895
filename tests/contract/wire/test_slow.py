"""Clients that send or read slowly lose their connection, and delay no other client."""

import pytest

from tests.contract.wire.resource_cases import SLOW
from tests.support.figures import Figures
from tests.support.neighbour import Attack
from tests.support.serving import Service
from tests.support.wire_cases import Case, chosen

CASES = chosen(SLOW)


@pytest.fixture(scope="module")
def attack(hostile: Service, figures: Figures) -> Attack:
    # All at the same time: they share one wait.
    return Attack.on(hostile, CASES, at_once=len(CASES)).noted(figures, "slow clients")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_slow_client_is_cut_off(attack: Attack, case: Case) -> None:
    assert case.faults(attack.outcomes[case.name]) == []


def test_nobody_else_notices(attack: Attack) -> None:
    assert attack.damage() == []
