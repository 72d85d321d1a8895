"""Clients that send too much are refused before it fills the memory."""

import resource

import pytest

from tests.contract.wire.resource_cases import FLOODS
from tests.support.figures import PROOF, Figures
from tests.support.neighbour import Attack
from tests.support.serving import Service
from tests.support.wire_cases import Case, chosen, survived
from tests.support.wire_steps import wait_for_end

CASES = chosen(FLOODS)
# Both workers together take 128.
CONNECTIONS, DESCRIPTORS = (10_000, 12_000) if PROOF else (300, 500)


@pytest.fixture(scope="module")
def attack(hostile: Service, figures: Figures) -> Attack:
    return Attack.on(hostile, CASES, at_once=4).noted(figures, "floods")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_flood_is_refused(attack: Attack, case: Case) -> None:
    assert case.faults(attack.outcomes[case.name]) == []


def test_nobody_else_notices(attack: Attack) -> None:
    assert attack.damage() == []


def test_a_flood_of_connections_leaves_room_for_others(hostile: Service, figures: Figures) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        pytest.skip(f"a process may open {hard} files, and {DESCRIPTORS} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    try:
        clients = [
            survived(f"connection {each}", [wait_for_end], "docs/http-api.md")
            for each in range(CONNECTIONS)
        ]
        attack = Attack.on(hostile, clients, at_once=CONNECTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    attack.noted(figures, "connections")
    # The idle ones are closed, for others or at the end of their time.
    assert {outcome.end for outcome in attack.outcomes.values()} <= {"closed", "reset"}
    assert attack.damage() == []
