"""Clients that send too much are refused before it fills the memory."""

import resource

import pytest

from tests.contract.wire.resource_cases import FLOODS, MOST_CONNECTIONS
from tests.support.figures import PROOF, Figures
from tests.support.neighbour import Attack
from tests.support.serving import Service
from tests.support.wire import Step
from tests.support.wire_cases import Case, chosen, get, head, survived
from tests.support.wire_steps import after_answers, pause

CASES = chosen(FLOODS)
CONNECTIONS, DESCRIPTORS, SECONDS = (10_000, 12_000, 30) if PROOF else (300, 500, 2)


@pytest.fixture(scope="module")
def attack(hostile: Service, figures: Figures) -> Attack:
    return Attack.on(hostile, CASES, at_once=4).noted(figures, "floods")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_flood_is_refused(attack: Attack, case: Case) -> None:
    assert case.faults(attack.outcomes[case.name]) == []


def test_nobody_else_notices(attack: Attack) -> None:
    assert attack.damage() == []


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("silent", []),
        ("half a head after an answer", [get(), after_answers(1), b"P"]),
        ("headers without a body", [head("Content-Length: 9")]),
    ],
)
def test_a_flood_of_connections_leaves_room_for_others(
    hostile: Service, figures: Figures, name: str, sent: list[Step]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < DESCRIPTORS:
        pytest.skip(f"a process may open {hard} files, and {DESCRIPTORS} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))
    try:
        clients = [
            survived(f"connection {each}", [*sent, pause(SECONDS)], "docs/http-api.md")
            for each in range(CONNECTIONS)
        ]
        attack = Attack.on(hostile, clients, at_once=CONNECTIONS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    attack.noted(figures, f"connections, {name}")
    ended = sum(outcome.end in {"closed", "reset"} for outcome in attack.outcomes.values())
    assert ended >= CONNECTIONS - 2 * MOST_CONNECTIONS
    assert attack.damage() == []
