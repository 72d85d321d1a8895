"""Requests that two servers could read differently are read in one way, or refused."""

import pytest

from tests.contract.wire.parsing_cases import SMUGGLING
from tests.support.figures import Figures
from tests.support.neighbour import Attack
from tests.support.serving import Service
from tests.support.wire_cases import Case, chosen

CASES = chosen(SMUGGLING)


@pytest.fixture(scope="module")
def attack(hostile: Service, figures: Figures) -> Attack:
    return Attack.on(hostile, CASES, at_once=8).noted(figures, "smuggling")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_request_is_read_in_one_way_or_refused(attack: Attack, case: Case) -> None:
    assert case.faults(attack.outcomes[case.name]) == []


def test_nobody_else_notices(attack: Attack) -> None:
    assert attack.damage() == []
