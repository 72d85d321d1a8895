"""The main faults with PgBouncer in transaction mode between the shipper and PostgreSQL.

Every answered prediction is in the table exactly once afterwards, as in `test_faults.py`.
"""

import signal
from collections.abc import Iterator

import pytest

from jobs.audit import command
from tests.support.answer_log import Verdict
from tests.support.commands import Caller
from tests.support.fault_proxy import COMMITTING, COPIED, COPYING, INSERTING, STRAIGHT, WITHIN, Trap
from tests.support.faults import FaultHarness, pause, running_harness
from tests.support.figures import PROOF, Figures
from tests.support.pgbouncer import PgBouncer, needs_pgbouncer

pytestmark = needs_pgbouncer
TIMES = 10 if PROOF else 2


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    collected = Figures(
        "faults-pooled", "The audit under faults, behind PgBouncer", pool_mode="transaction"
    )
    yield collected
    collected.write()


@pytest.fixture(scope="module")
def shared_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultHarness]:
    with running_harness(tmp_path_factory.mktemp("pooled"), pooled=True) as made:
        yield made


@pytest.fixture
def harness(shared_harness: FaultHarness) -> Iterator[FaultHarness]:
    yield shared_harness
    shared_harness.restore()


@pytest.fixture
def pooler(harness: FaultHarness) -> PgBouncer:
    assert harness.pooler
    return harness.pooler


@pytest.fixture
def verdict(
    harness: FaultHarness,
    figures: Figures,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Verdict:
    return Verdict(
        harness.state, harness.url, figures, Caller("audit", command, monkeypatch, capsys)
    )


def test_postgresql_stopped_behind_the_pooler(harness: FaultHarness, verdict: Verdict) -> None:
    with harness.load() as log:
        harness.stop_postgresql()
        seconds = pause(3, 60)
        assert harness.service.ready()["status"] == "ready"
        harness.start_postgresql()
        log.grew_by(50)
    assert log.refused() == []
    harness.settled()
    verdict.nothing_lost(log, f"PostgreSQL stopped for {seconds:g} s")


def test_postgresql_killed_within_a_copy_behind_the_pooler(
    harness: FaultHarness, verdict: Verdict
) -> None:
    with harness.load() as log:
        for _ in range(TIMES):
            trap = harness.proxy.set(Trap(COPYING, "hold", more=WITHIN))
            assert trap.sprung.wait(30)
            harness.kill_postgresql()
            harness.start_postgresql()
            log.grew_by(20)
    assert log.refused() == []
    harness.settled()
    verdict.nothing_lost(log, f"PostgreSQL killed within a COPY, {TIMES} times")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_pooler_killed_within_a_copy_and_between(
    harness: FaultHarness, pooler: PgBouncer, verdict: Verdict, number: signal.Signals
) -> None:
    with harness.load() as log:
        for _ in range(TIMES):
            trap = harness.proxy.set(Trap(COPYING, "hold", more=WITHIN))
            assert trap.sprung.wait(30)
            pooler.end(number)
            pause(0.3, 5)
            pooler.start()
            log.grew_by(20)
            pooler.end(number)
            pooler.start()
            log.grew_by(20)
    assert log.refused() == []
    harness.settled()
    verdict.nothing_lost(log, f"PgBouncer ended by {number.name}, {2 * TIMES} times")


def test_unacknowledged_commits_through_the_pooler(harness: FaultHarness, verdict: Verdict) -> None:
    replayed = harness.status.replayed
    with harness.load() as log:
        for _ in range(TIMES):
            # A COPY that has committed, then the INSERT that sends the same rows again.
            for trap in (
                Trap(COPIED, "cut", after=STRAIGHT),
                Trap(COMMITTING, "cut", after=INSERTING),
            ):
                harness.proxy.set(trap)
                assert trap.sprung.wait(30)
    assert log.refused() == []
    harness.settled()
    verdict.nothing_lost(log, f"connections cut, {2 * TIMES} unacknowledged commits")
    assert harness.status.replayed > replayed
