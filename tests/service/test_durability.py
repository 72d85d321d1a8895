"""Each setting of `durability`: where a record is when its answer leaves the service.

The shipper and PostgreSQL are real.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from fraudops.audit.dead_letters import DeadLetters
from tests.support.faults import FaultHarness, refuse_large_files, running_harness
from tests.support.http_client import HTTP
from tests.support.serving import ULB_ROW, Service, problem
from tests.support.waiting import eventually

LABEL = {
    "transaction_id": "t-1",
    "label": 1,
    "labelled_at": "2026-01-01T00:00:00Z",
    "source": "analyst",
}


@pytest.fixture(scope="module")
def shared_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultHarness]:
    settings = {
        "FRAUDOPS_AUDIT__DURABILITY": "commit",
        "FRAUDOPS_AUDIT__COMMIT_TIMEOUT_SECONDS": "20",
    }
    with running_harness(tmp_path_factory.mktemp("commit"), **settings) as made:
        yield made


@pytest.fixture
def committing(shared_harness: FaultHarness) -> Iterator[FaultHarness]:
    """Yield the harness; afterwards start what the test left stopped and remove its faults."""
    yield shared_harness
    shared_harness.restore()


def in_table(harness: FaultHarness, answers: list[str]) -> int:
    with psycopg.connect(harness.url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM predictions WHERE id = ANY(%s::uuid[])", [answers]
        ).fetchone()
    assert row
    return int(row[0])


def test_commit_answers_when_the_row_is_in_the_table(committing: FaultHarness) -> None:
    for _ in range(20):
        answer = committing.service.predict()
        assert answer.status_code == 200
        assert in_table(committing, [answer.json()["prediction_id"]]) == 1


def test_commit_answers_a_batch_when_all_of_its_rows_are_in_the_table(
    committing: FaultHarness,
) -> None:
    answer = HTTP.post(
        f"{committing.service.url}/predict/batch", json={"transactions": [ULB_ROW] * 600}
    )
    assert answer.status_code == 200, answer.text
    assert (
        in_table(committing, [row["prediction_id"] for row in answer.json()["predictions"]]) == 600
    )


async def test_a_hundred_requests_wait_for_their_commit_together(committing: FaultHarness) -> None:
    url = f"{committing.service.url}/predict"
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answers = await asyncio.gather(*(client.post(url, json=ULB_ROW) for _ in range(100)))
    assert {
        answer.status_code: answer.text for answer in answers if answer.status_code != 200
    } == {}
    assert in_table(committing, [answer.json()["prediction_id"] for answer in answers]) == 100


def test_commit_without_postgresql_answers_503_stays_ready_and_recovers(
    committing: FaultHarness,
) -> None:
    committing.restart_service("services.inference", FRAUDOPS_AUDIT__COMMIT_TIMEOUT_SECONDS="1")
    committing.stop_postgresql()
    try:
        for _ in range(3):
            answer = committing.service.predict()
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "PostgreSQL did not confirm in time" in problem(answer)["detail"]
        assert committing.service.ready()["status"] == "ready"
    finally:
        committing.start_postgresql()

    def answered() -> list[str]:
        # Twenty new connections reach every worker.
        answers = [committing.service.predict() for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        return [answer.json()["prediction_id"] for answer in answers]

    assert in_table(committing, eventually(answered, 30)) == 20


def test_commit_answers_503_while_postgresql_refuses_every_row(committing: FaultHarness) -> None:
    """The row may be in the table later, so it is no refusal of this row."""
    assert committing.service.predict().status_code == 200
    committing.restart_service("services.inference", FRAUDOPS_AUDIT__COMMIT_TIMEOUT_SECONDS="1")
    with committing.refusing_constraint():
        answers = [committing.service.predict() for _ in range(3)]
    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "PostgreSQL did not confirm in time" in problem(answer)["detail"]

    def answered() -> None:
        assert {committing.service.predict().status_code for _ in range(20)} == {200}

    eventually(answered, 30)
    assert list(DeadLetters(committing.state.spool).entries()) == []


def test_commit_works_with_every_policy_of_fsync(committing: FaultHarness) -> None:
    committing.restart_service("services.inference", FRAUDOPS_AUDIT__FSYNC="always")
    assert in_table(committing, [committing.service.predict().json()["prediction_id"]]) == 1


def serving(folder: Path, **environment: str) -> Service:
    return Service(folder / "state", workers=1, environment=environment).promoted(1)


def test_memory_answers_and_an_orderly_stop_loses_nothing(tmp_path: Path) -> None:
    service = serving(tmp_path, FRAUDOPS_AUDIT__DURABILITY="memory")
    try:
        ids = [service.predict().json()["prediction_id"] for _ in range(50)]
        assert HTTP.post(f"{service.url}/feedback", json={"labels": [LABEL]}).status_code == 202
    finally:
        ended = service.stop()
    assert ended == 0
    assert [record.id for record in service.audited()][:50] == ids
    assert len(service.audited()) == 51


def test_answers_that_a_killed_worker_held_in_memory_are_counted(tmp_path: Path) -> None:
    service = serving(tmp_path, FRAUDOPS_AUDIT__DURABILITY="memory")
    try:
        (worker,) = service.worker_pids()
        # Its spool takes nothing now, so the worker holds every answer in memory.
        refuse_large_files([worker], 0)
        assert [service.predict().status_code for _ in range(5)] == [200] * 5
        os.kill(worker, signal.SIGKILL)

        def counted() -> None:
            assert service.metrics()["fraudops_audit_lost_total"] == 5

        eventually(counted)
        assert "answers were lost" in service.log
    finally:
        service.stop()


def test_off_audits_nothing_refuses_labels_and_says_so(tmp_path: Path) -> None:
    service = serving(tmp_path, FRAUDOPS_AUDIT__DURABILITY="off")
    try:
        assert service.predict().status_code == 200
        assert HTTP.get(f"{service.url}/model_info").json()["audit"] == "off"
        refused = HTTP.post(f"{service.url}/feedback", json={"labels": [LABEL]})
        assert (refused.status_code, "nothing is audited" in problem(refused)["detail"]) == (
            409,
            True,
        )
        assert "NOTHING IS AUDITED" in service.log
        assert service.audited() == []
    finally:
        service.stop()
