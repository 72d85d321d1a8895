"""A fault of PostgreSQL that refuses every row: everything waits, and nothing is set aside.

Every answered prediction is in the table exactly once afterwards, as in `test_faults.py`.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraudops.audit.dead_letters import DeadLetters
from jobs.audit import command
from tests.support.answer_log import Verdict
from tests.support.commands import Caller
from tests.support.faults import FaultHarness, pause, running_harness
from tests.support.figures import PROOF, Figures
from tests.support.waiting import eventually


@pytest.fixture
def figures() -> Iterator[Figures]:
    collected = Figures("faults-systematic", "The audit while PostgreSQL refuses every row")
    yield collected
    collected.write()


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[FaultHarness]:
    with running_harness(tmp_path) as made:
        yield made


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


def test_a_systematic_fault(harness: FaultHarness, verdict: Verdict, figures: Figures) -> None:
    """Ship nothing and set nothing aside under a constraint that every row violates."""
    clients, rate = (10, 1000) if PROOF else (6, 300)
    with harness.load(clients, clients / rate) as log:
        with harness.refusing_constraint():
            began, answered = time.monotonic(), len(log.answers())
            eventually(harness.expect_refusal)
            seen = time.monotonic() - began
            pause(4, 60)
            harness.expect_refusal()
            rate = (len(log.answers()) - answered) / (time.monotonic() - began)
            waiting = harness.status.backlog_rows
        log.grew_by(50)
    ended = time.monotonic()
    assert log.refused() == []
    harness.settled()
    settled = time.monotonic() - ended
    assert not list(DeadLetters(harness.state.spool).entries())
    verdict.nothing_lost(log, f"a constraint that every row violates, at {rate:,.0f} rows a second")
    figures.note(
        "until status and metric named that constraint",
        f"{seen:.1f} s; {waiting:,} rows waited in the spool, no dead letter, all shipped"
        f" {settled:.1f} s after the load",
    )
