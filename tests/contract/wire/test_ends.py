"""Connections that end at any byte, by the client or by the stop of the pod."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fraudops.audit.records import Prediction
from tests.contract.wire.resource_cases import ENDS, SLOW
from tests.support.figures import Figures
from tests.support.neighbour import LAST, Attack, prediction_ids
from tests.support.serving import Service
from tests.support.waiting import eventually
from tests.support.wire import perform_all
from tests.support.wire_cases import Case, chosen, closed, post
from tests.support.wire_steps import wait_for_end

CASES = chosen(ENDS)


@pytest.fixture(scope="module")
def attack(hostile: Service, figures: Figures) -> Attack:
    return Attack.on(hostile, CASES, at_once=16).noted(figures, "ends")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_end_is_seen(attack: Attack, case: Case) -> None:
    assert case.faults(attack.outcomes[case.name]) == []


def test_nobody_else_notices(attack: Attack) -> None:
    assert attack.damage() == []


def test_a_pod_ends_in_time_while_clients_are_slow(tmp_path: Path) -> None:
    service = Service(
        tmp_path / "service", workers=1, environment={"FRAUDOPS_GRACEFUL_TIMEOUT_SECONDS": "3"}
    ).promoted(1)
    # The limits of this service are those of its defaults, so the stop comes before them.
    slow = [case for case in SLOW if not case.proof and case.end == "closes"]
    slow += [
        closed(f"answered {each}", [post(), wait_for_end], 200, "docs/http-api.md")
        for each in range(8)
    ]
    clients = [(case.steps, case.expected) for case in slow]
    with ThreadPoolExecutor(1) as pool:
        attack = pool.submit(asyncio.run, perform_all(service.port, clients, len(clients), LAST))
        try:
            eventually(lambda: all_are_connected(service, len(slow)))
        finally:
            code = service.stop()
        outcomes = dict(zip((case.name for case in slow), attack.result(), strict=True))
    assert code == 0, service.log
    ends = {name: outcome.end for name, outcome in outcomes.items()}
    assert set(ends.values()) <= {"closed", "reset"}, ends
    statuses = {status for outcome in outcomes.values() for status in outcome.statuses}
    assert statuses <= {100, 200, 400, 408, 503}
    assert "Exception in ASGI" not in service.log
    answered = set().union(*map(prediction_ids, outcomes.values()))
    assert len(answered) >= 8
    assert answered <= {each.id for each in service.audited() if isinstance(each, Prediction)}


def all_are_connected(service: Service, number: int) -> None:
    assert service.metrics()["fraudops_connections"] >= number
