"""Each fault under load: every answered prediction is in the table exactly once afterwards.

The faults are short here and have their full length with PROOF=1 (`make proof`).
"""

import asyncio
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import psycopg
import pytest

from fraudops.audit.activity import Activity, activity
from fraudops.audit.database import create_engine
from fraudops.audit.records import decode, encode
from fraudops.ids import timestamp_ms
from fraudops.spool.inspection import payloads
from fraudops.spool.segments import list_segments
from fraudops.state import State
from jobs.audit import command
from services.supervisor.postgresql import OWNER
from tests.support.answer_log import Log, Verdict
from tests.support.audit_records import prediction
from tests.support.backlog import fill, plain_copy, ship
from tests.support.commands import Caller
from tests.support.fault_proxy import (
    COMMITTING,
    COPIED,
    COPYING,
    GREETING,
    INSERTING,
    STRAIGHT,
    WITHIN,
    Trap,
)
from tests.support.faults import FaultHarness, pause, refuse_large_files, running_harness
from tests.support.figures import PROOF, Figures
from tests.support.segments import SegmentContents, damage, segment_of
from tests.support.stepped_clock import step

SEED = 7
SPOOL_BYTES = 32 << 20 if PROOF else 4 << 20


@pytest.fixture(scope="module")
def figures() -> Iterator[Figures]:
    collected = Figures(
        "faults",
        "The audit under faults",
        seed=SEED,
        durability="spool unless a line says otherwise",
        fsync="interval",
    )
    yield collected
    collected.write()


@pytest.fixture(scope="module")
def shared_harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultHarness]:
    settings = {
        "FRAUDOPS_AUDIT__SPOOL_MAX_BYTES": str(SPOOL_BYTES),
        "FRAUDOPS_AUDIT__SEGMENT_MAX_BYTES": str(1 << 18),
    }
    with running_harness(tmp_path_factory.mktemp("faults"), **settings) as made:
        yield made


@pytest.fixture
def harness(shared_harness: FaultHarness) -> Iterator[FaultHarness]:
    """Yield the harness; afterwards start what the test left stopped and remove its faults."""
    yield shared_harness
    shared_harness.restore()


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


def kill_workers(harness: FaultHarness, log: Log, chance: random.Random, times: int) -> None:
    for _ in range(times):
        pid = chance.choice(harness.service.worker_pids())
        os.kill(pid, signal.SIGKILL)
        harness.replaced(pid)
        log.grew_by(10)


def test_a_test_that_fails_leaves_nothing_stopped_for_those_after_it(harness: FaultHarness) -> None:
    harness.restart_service("services.inference", FRAUDOPS_AUDIT__DURABILITY="memory")
    harness.kill_service()
    harness.end_shipper()
    harness.stop_postgresql()
    harness.proxy.stall()
    harness.restore()
    assert harness.service.environment == harness.settings
    assert harness.service.predict().status_code == 200
    harness.settled()


def test_postgresql_stopped(harness: FaultHarness, verdict: Verdict, figures: Figures) -> None:
    with harness.load() as log:
        moments = [time.monotonic()]
        pause(0.5, 60)
        moments.append(time.monotonic())
        harness.stop_postgresql()
        moments.append(time.monotonic())
        away = pause(3, 60)
        moments.append(time.monotonic())
        assert harness.service.ready()["status"] == "ready"
        harness.start_postgresql()
        log.grew_by(50)
    assert log.refused() == []
    harness.settled()
    verdict.nothing_lost(log, f"PostgreSQL stopped for {away:g} s")
    up, down = log.p99(*moments[:2]), log.p99(*moments[2:])
    figures.note(
        "p99 of /predict, PostgreSQL down against up",
        f"{down:.2f} ms against {up:.2f} ms: {down / up:.2f}",
    )


def test_postgresql_killed_within_a_copy(harness: FaultHarness, verdict: Verdict) -> None:
    times = 10 if PROOF else 1
    with harness.load() as log:
        for _ in range(times):
            trap = harness.proxy.set(Trap(COPYING, "hold", more=WITHIN))
            assert trap.sprung.wait(30)
            harness.kill_postgresql()
            harness.start_postgresql()
            log.grew_by(20)
    assert log.refused() == []
    harness.settled()
    verdict.nothing_lost(log, f"PostgreSQL killed within a COPY, {times} times")


def test_connections_reset(harness: FaultHarness, verdict: Verdict) -> None:
    """Reset at random moments, within a COPY, and when only PostgreSQL knows of the commit."""
    chance, times = random.Random(SEED), 20 if PROOF else 2
    before, replayed = harness.proxy.resets, harness.status.replayed
    with harness.load() as log:
        for _ in range(times):
            harness.proxy.reset()
            time.sleep(chance.uniform(0.2, 0.8))
        for _ in range(times):
            for trap in (
                Trap(COPYING, "cut", more=WITHIN),
                Trap(COMMITTING, "cut", after=INSERTING),
                Trap(COPIED, "cut", after=STRAIGHT),
            ):
                harness.proxy.set(trap)
                assert trap.sprung.wait(30)
    assert log.refused() == []
    harness.settled()
    verdict.nothing_lost(
        log,
        f"connections reset, {harness.proxy.resets - before} times,"
        f" {2 * times} of them with a commit that was not heard of",
    )
    assert harness.status.replayed > replayed


def test_the_network_stalled_without_a_reset(harness: FaultHarness, verdict: Verdict) -> None:
    with harness.load() as log:
        harness.proxy.stall()
        # Shorter than the shipper's timeout; with PROOF=1 longer.
        seconds = pause(1.5, 75)
        harness.proxy.flow()
        log.grew_by(20)
    assert log.refused() == []
    harness.settled()
    verdict.nothing_lost(log, f"network stalled for {seconds:g} s")


@pytest.mark.parametrize("words", [GREETING, COPYING, INSERTING] if PROOF else [INSERTING])
def test_a_connection_that_falls_silent_and_stays_so(
    harness: FaultHarness, verdict: Verdict, words: bytes
) -> None:
    """The shipper connects again and PostgreSQL releases the locks of the old connection.

    Neither side learns that the connection is dead, as when a firewall drops its state.
    """
    with harness.load() as log:
        trap = harness.proxy.set(Trap(words, "stall", more=WITHIN if words == COPYING else 0))
        if words != COPYING:
            # Only a new connection sends these words.
            harness.proxy.reset()
        assert trap.sprung.wait(30)
        pause(2, 60)
        log.grew_by(20)
    assert log.refused() == []
    harness.settled()
    verdict.nothing_lost(log, f"a connection silent for ever within {words.decode().split()[0]}")


def test_the_spool_full(harness: FaultHarness, verdict: Verdict, figures: Figures) -> None:
    with harness.load() as log:
        harness.stop_postgresql()
        answer = harness.fill_spool(log)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        log.refused_by("spool is full")
        assert harness.service.ready()["status"] == "ready"
        pause(0.5, 20)
        harness.start_postgresql()
        log.grew_by(50)
    assert {(line["status"], line["retry_after"]) for line in log.refused()} == {(503, "1")}
    harness.settled()
    verdict.nothing_lost(
        log, f"spool full at its maximum of {SPOOL_BYTES >> 20} MiB: 503 with Retry-After, ready"
    )


def test_the_disk_full(harness: FaultHarness, verdict: Verdict) -> None:
    with harness.load() as log:
        workers = harness.service.worker_pids()
        # RLIMIT_FSIZE acts like a full disk and needs no root: the kernel writes half a record
        # and refuses the rest.
        refuse_large_files(
            workers, min(path.stat().st_size for path in harness.state.spool.glob("*.seg")) + 1300
        )
        log.refused_by("disk of the audit spool is full")
        assert harness.service.ready()["status"] == "ready"
        pause(0.5, 20)
        refuse_large_files(workers, resource.RLIM_INFINITY)
        log.grew_by(50)
    assert {(line["status"], line["retry_after"]) for line in log.refused()} == {(503, "1")}
    harness.settled()
    verdict.nothing_lost(
        log, "disk full within a write (RLIMIT_FSIZE): 503 with Retry-After, ready"
    )


def test_workers_killed(harness: FaultHarness, verdict: Verdict) -> None:
    chance, times = random.Random(SEED), 50 if PROOF else 3
    with harness.load() as log:
        kill_workers(harness, log, chance, times)
    assert all(line["status"] == 0 for line in log.refused())
    harness.settled()
    verdict.nothing_lost(log, f"a worker killed, {times} times")


def test_workers_killed_that_answer_from_memory(
    harness: FaultHarness, verdict: Verdict, figures: Figures
) -> None:
    """`memory` loses answers of a killed worker, but never more than the service counts."""
    chance, times = random.Random(SEED), 50 if PROOF else 3
    harness.restart_service("services.inference", FRAUDOPS_AUDIT__DURABILITY="memory")
    with harness.load() as log:
        kill_workers(harness, log, chance, times)
    counted = harness.service.metrics()["fraudops_audit_lost_total"]
    harness.restart_service("services.inference")
    harness.settled()
    report = verdict.verified(log)
    lost, lines = report["log"]["lost"], report["log"]["lines"]
    assert (report["log"]["in_table"], report["duplicated"]) == (lines - lost, 0)
    assert lost <= counted
    figures.note(
        f"durability memory, a worker killed, {times} times",
        f"{lines:,} answered, lost {lost}, at most {counted:.0f} by the service's count",
    )


def test_workers_killed_that_answer_when_postgresql_has_committed(
    harness: FaultHarness, verdict: Verdict
) -> None:
    chance, times = random.Random(SEED), 50 if PROOF else 3
    harness.restart_service(
        "services.inference",
        FRAUDOPS_AUDIT__DURABILITY="commit",
        FRAUDOPS_AUDIT__COMMIT_TIMEOUT_SECONDS="20",
    )
    with harness.load() as log:
        kill_workers(harness, log, chance, times)
        harness.kill_postgresql()
        harness.start_postgresql()
        log.grew_by(50)
    answered = [answer["prediction_id"] for answer in log.answers()]
    with psycopg.connect(harness.url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM predictions WHERE id = ANY(%s::uuid[])", [answered]
        ).fetchone()
    assert row == (len(answered),), "an answer left before its row was there"
    harness.restart_service("services.inference")
    harness.settled()
    verdict.nothing_lost(
        log, f"durability commit, a worker killed, {times} times, and PostgreSQL once"
    )


def test_every_process_of_the_pod_killed_together(
    harness: FaultHarness, verdict: Verdict, figures: Figures
) -> None:
    """Written records survive the processes under any fsync policy.

    Only the crash of a machine makes a difference between the policies.
    """
    times = 10 if PROOF else 1
    with harness.load() as log:
        for _ in range(times):
            harness.kill_service()
            harness.end_shipper()
            harness.start_service()
            harness.start_shipper()
            log.grew_by(40)
    harness.settled()
    verdict.nothing_lost(log, f"service, workers and shipper killed at once, {times} times")
    figures.note(
        "what fsync interval does not promise",
        "a machine's crash may take the answers since its last fsync, 100 ms:"
        " no machine was crashed here",
    )


def test_the_clock_stepped_backwards(harness: FaultHarness, verdict: Verdict) -> None:
    """Step the clock that ids are made from, over a midnight and within a day."""
    clock = harness.folder / "clock"
    step(clock, 0)
    harness.restart_service(
        "tests.support.stepped_clock", "services.inference", STEPPED_CLOCK=str(clock)
    )
    with harness.load() as log:
        for offset in (-26 * 3600, -27 * 3600, 0, -5):
            step(clock, offset)
            log.grew_by(30)
    harness.restart_service("services.inference")
    moments = [timestamp_ms(answer["prediction_id"]) for answer in log.answers()]
    assert max(before - after for before, after in pairwise(moments)) > 26 * 3_600_000 - 60_000
    assert all(answer["ms"] > 0 for answer in log.answers())
    harness.settled()
    verdict.nothing_lost(log, "clock stepped back by 26 h and 1 h, on by 27 h, back by 5 s")


def test_a_client_that_repeats_a_request_makes_two_rows_and_one_decision(
    harness: FaultHarness, verdict: Verdict
) -> None:
    with harness.load() as log:
        log.grew_by(50)
        # The next shipper sends again what this one shipped and did not note.
        harness.end_shipper()
        harness.start_shipper()
        log.grew_by(100)
    harness.settled()
    verdict.nothing_lost(log, "transactions sent again while the shipper dies")
    answers = log.answers()
    moments = [timestamp_ms(answer["prediction_id"]) for answer in answers]
    since, until = (
        datetime.fromtimestamp(moment / 1000, UTC) for moment in (min(moments), max(moments) + 1)
    )
    total, _ = asyncio.run(_activity(harness.url, since, until))
    decisions = {answer["transaction_id"]: answer["prediction"] for answer in answers}
    assert (total.answers, total.decisions, total.frauds) == (
        len(answers),
        len(decisions),
        sum(decisions.values()),
    )
    assert len(decisions) < len(answers)


async def _activity(url: str, since: datetime, until: datetime) -> tuple[Activity, list[Activity]]:
    engine = create_engine(url)
    try:
        return await activity(engine, since, until, "credit-fraud")
    finally:
        await engine.dispose()


def test_damaged_segments_lose_what_was_damaged_and_say_so(
    harness: FaultHarness, verdict: Verdict, figures: Figures
) -> None:
    """Flip one bit and cut off another segment; the shipper and `verify` count what is lost."""
    chance, times, lost, answered = random.Random(SEED), 10 if PROOF else 1, 0, 0
    for _ in range(times):
        harness.end_shipper(signal.SIGTERM)
        with harness.load() as log:
            log.grew_by(60)
        harness.kill_service()
        paths = [
            harness.state.spool / segment.name for segment in list_segments(harness.state.spool)
        ]
        before = {decode(payload).id for path in paths for payload in payloads(path)}
        damage(chance, paths)
        left = {decode(payload).id for path in paths for payload in payloads(path)}
        harness.start_shipper()
        harness.settled()
        gone = {answer["prediction_id"] for answer in log.answers()} & (before - left)
        report = verdict.verified(log)
        assert (report["log"]["lost"], report["log"]["in_table"]) == (
            len(gone),
            report["log"]["lines"] - len(gone),
        )
        # The damage may hit only records whose answers no client received, so `gone` may be empty.
        assert before - left
        assert harness.status.set_aside >= 1
        lost, answered = lost + len(gone), answered + report["log"]["lines"]
        harness.start_service()
    figures.note(
        f"a bit flipped and a segment cut off, {times} times",
        f"{answered:,} answered, lost {lost}: those in the damage, each counted; duplicated 0",
    )


def test_a_segment_damaged_anywhere_loses_no_record_outside_the_damage(figures: Figures) -> None:
    seeds, lost = 10_000 if PROOF else 200, 0
    for seed in range(seeds):
        chance = random.Random(seed)
        written = [
            encode(prediction(transaction_id=f"{seed}-{number}"))
            for number in range(chance.randint(1, 20))
        ]
        segment, ends = segment_of(written)
        at = chance.randrange(len(segment))
        hit = sum(end <= at for end in ends)
        if chance.random() < 0.5:
            read, kept = SegmentContents(segment[:at]), written[:hit]
        else:
            read, kept = (
                SegmentContents(
                    segment[:at]
                    + bytes([segment[at] ^ 1 << chance.randrange(8)])
                    + segment[at + 1 :]
                ),
                written[:hit] + written[hit + 1 :],
            )
        assert read.payloads == kept, f"seed {seed}"
        lost += len(written) - len(kept)
    figures.note(
        "a segment cut off or a bit of it flipped",
        f"{seeds:,} seeds: nothing lost but what was cut or flipped ({lost:,} records),"
        " nothing made up",
    )


def test_a_long_backlog_is_shipped(harness: FaultHarness, tmp_path: Path, figures: Figures) -> None:
    """Ship the rows and note the cost in the figures; no time is asserted."""
    rows, name = 1_000_000 if PROOF else 2_000, "backlog"
    state = State.at(tmp_path / "state")
    with psycopg.connect(harness.server.admin_url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} OWNER {OWNER}")
        fill(state, rows, SEED)
        shipped = ship(state, harness.server.url(name), rows, 1800)
        copied = plain_copy(harness.server.url(name), tmp_path)
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert shipped.rows == rows
    figures.note(
        f"backlog of {rows:,} rows shipped", f"{rows / shipped.seconds:,.0f} rows a second"
    )
    figures.note(
        "plain COPY of the same rows, no index",
        f"{rows / copied:,.0f} rows a second:"
        f" shipping reaches {copied / shipped.seconds:.2f} of it",
    )
    figures.note(
        "memory of the shipper, a tenth shipped, and at most",
        f"{shipped.early / 2**20:.1f} MiB, {shipped.most / 2**20:.1f} MiB",
    )
