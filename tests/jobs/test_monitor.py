"""`fraudops monitor` and `fraudops migrate` as commands, on a real PostgreSQL."""

import asyncio
import json
import os
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from fraudops.audit.records import Record, encode, new_label
from fraudops.audit.shipper_status import ShipperStatus, shipper_path, write_shipper_status
from fraudops.files import write_json
from fraudops.ids import TEST_PREFIX
from fraudops.state import State
from jobs.cli import cli
from services.shipper.sink import Sink
from tests.support.audit_records import prediction, refusals
from tests.support.commands import CommandResult, bare_environment, call
from tests.support.processes import free_port


def fraudops(url: str, *arguments: str) -> CommandResult:
    return call("fraudops", cli, *arguments, **bare_environment(), DATABASE_URL=url, COLUMNS="120")


def store(url: str, records: list[Record]) -> None:
    async def ship() -> None:
        sink = Sink(url)
        outcome = await sink.ship([encode(record) for record in records])
        await sink.close()
        assert outcome.new == len(records)

    asyncio.run(ship())


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State.at(tmp_path / "state")
    state.run.mkdir(parents=True)
    return state


def test_an_empty_window_is_reported_as_empty(database: str, state: State) -> None:
    done = fraudops(database, "monitor", "--hours", "2", "--state", str(state.root))
    assert done.returncode == 0, done.stderr
    assert "the last 2 hours" in done.stdout
    assert "Nothing was answered in this window." in done.stdout
    assert "No shipper has run" in done.stdout


def test_answers_to_tests_of_the_installation_are_counted_separately(
    database: str, state: State
) -> None:
    ids = ("t-1", None, f"{TEST_PREFIX}1", "a-fraudops-test-1")
    store(database, [prediction(datetime.now(UTC), transaction_id=name) for name in ids])
    monitor = ("monitor", "--hours", "1", "--state", str(state.root))
    text = fraudops(database, *monitor).stdout
    assert "Tests of the installation among these answers: 1 (" in text
    total = json.loads(fraudops(database, *monitor, "--json").stdout)["total"]
    assert (total["answers"], total["tests"]) == (4, 1)


def test_answers_are_reported_in_total_and_by_version(database: str, state: State) -> None:
    now = datetime.now(UTC)
    old = [
        prediction(
            now - timedelta(minutes=30),
            prediction=int(number == 0),
            transaction_id=f"t-{number}",
            latency_ms=float(number),
        )
        for number in range(10)
    ]
    new = [
        prediction(now, prediction=1, model_version="4", model_digest="e" * 64),
        prediction(now - timedelta(hours=30)),
    ]
    labels = [
        new_label(1, now, "chargeback", prediction_id=old[0].id),
        new_label(1, now, "chargeback", transaction_id="t-1"),
        new_label(0, now, "analyst", prediction_id=new[0].id),
    ]
    store(database, [*old, *new, *labels])
    # A time in the future: the shipper must not count as silent before the commands below end.
    status = ShipperStatus(
        pid=os.getpid(),
        at=now + timedelta(hours=1),
        phase="waiting",
        backlog_bytes=1_234_567,
        oldest_at=now,
        last_error="PostgreSQL is away",
    )
    write_json(shipper_path(state), status)

    read = json.loads(
        fraudops(database, "monitor", "--hours", "24", "--json", "--state", str(state.root)).stdout
    )
    total = read["total"]
    assert (total["answers"], total["decisions"], total["frauds"]) == (11, 11, 2)
    assert total["fraud_rate"] == pytest.approx(2 / 11)
    assert total["latency_p50_ms"] == pytest.approx(4.0)
    assert (total["precision"], total["recall"], total["label_coverage"]) == (
        0.5,
        0.5,
        pytest.approx(3 / 11),
    )
    assert [(version["model_version"], version["answers"]) for version in read["versions"]] == [
        ("3", 10),
        ("4", 1),
    ]
    assert read["spool"]["waiting_bytes"] == 1_234_567

    text = fraudops(database, "monitor", "--state", str(state.root)).stdout
    assert "Labels have arrived for 3 of 11 decisions (27.27%)" in text
    assert "Still in the spool, and not in these figures: 1,234,567 bytes" in text
    assert "The shipper is waiting: PostgreSQL is away." in text


def test_answers_and_decisions_differ_when_a_client_repeats_a_request(
    database: str, state: State
) -> None:
    store(
        database,
        [
            *(prediction(transaction_id="again") for _ in range(3)),
            prediction(transaction_id="once"),
        ],
    )
    total = json.loads(fraudops(database, "monitor", "--json", "--state", str(state.root)).stdout)[
        "total"
    ]
    assert (total["answers"], total["decisions"], total["estimated"], total["margins_95"]) == (
        4,
        2,
        False,
        None,
    )
    text = fraudops(database, "monitor", "--state", str(state.root)).stdout
    assert "2 answers repeat a transaction of the 24 hours before" in text
    assert "Estimates" not in text


# 250,000 predictions, one every 5 ms, whose ids are version 7 UUIDs of their timestamps. Every
# 500th is decided as fraud.
INSERT_MANY = """
INSERT INTO predictions (id, "timestamp", fraud_probability, prediction, threshold, model_name,
                         model_version, model_digest, latency_ms, pod)
SELECT CAST(lpad(to_hex(CAST(extract(epoch FROM moment) * 1000 AS bigint)), 12, '0')
            || '7' || substr(lot, 1, 3) || '8' || substr(lot, 4, 15) AS uuid),
       moment, 0.5, CAST(n % 500 = 0 AS int), 0.5, 'credit-fraud', '3', 'd', 1.0, 'p'
FROM (SELECT n, md5('' || n) AS lot,
             date_trunc('milliseconds', now() - n * interval '5 milliseconds') AS moment
      FROM generate_series(1, 250000) AS n) AS drawn"""


def test_a_window_too_large_to_count_is_estimated_with_its_margins(
    database: str, state: State
) -> None:
    """Frauds are few, so each of them is counted even then."""
    store(database, [prediction(datetime.now(UTC) - timedelta(hours=1))])
    with psycopg.connect(database) as connection:
        connection.execute(INSERT_MANY)
    read = fraudops(database, "monitor", "--hours", "2", "--json", "--state", str(state.root))
    total = json.loads(read.stdout)["total"]
    assert (
        total["estimated"],
        total["weight"],
        total["frauds"],
        total["margins_95"]["frauds"],
    ) == (True, 8, 500, 0)
    assert abs(total["answers"] - 250_001) < 1.5 * total["margins_95"]["answers"]
    assert 25_000 < total["read"] < 38_000
    text = fraudops(database, "monitor", "--hours", "2", "--state", str(state.root)).stdout
    assert (
        f"Estimates from {total['read']:,} answers: of those decided as fraud all, of the others"
        " one in 8. With 95 % confidence answers ±" in " ".join(text.split())
    )


def test_without_labels_no_quality_is_claimed(database: str, state: State) -> None:
    store(database, [prediction() for _ in range(3)])
    status = ShipperStatus(pid=os.getpid(), at=datetime.now(UTC), phase="shipping")
    write_shipper_status(state, status)
    done = fraudops(database, "monitor", "--state", str(state.root))
    assert "No labels have arrived" in done.stdout
    assert "Everything answered is in the table." in done.stdout
    read = json.loads(fraudops(database, "monitor", "--json", "--state", str(state.root)).stdout)
    assert read["total"]["precision"] is None
    assert read["total"]["label_coverage"] == 0


def test_unmatched_labels_and_refused_transactions_are_shown(database: str, state: State) -> None:
    now = datetime.now(UTC)
    old, young = now - timedelta(minutes=11), now - timedelta(minutes=9)
    answers = [
        prediction(now - timedelta(days=40), transaction_id="t-1"),
        prediction(now - timedelta(minutes=30), transaction_id="t-2"),
    ]
    store(
        database,
        [
            *answers,
            new_label(1, old, "rule", transaction_id="t-1", received_at=old),
            new_label(0, old, "analyst", prediction_id=answers[0].id, received_at=old),
            new_label(1, old, "rule", prediction_id=answers[1].id, received_at=old),
            new_label(1, old, "rule", transaction_id="unknown", received_at=old),
            new_label(1, old, "rule", prediction_id=str(uuid.uuid4()), received_at=old),
            # Its answer may still be in a spool.
            new_label(1, young, "rule", transaction_id="soon", received_at=young),
            # It arrived before the window.
            new_label(1, old, "rule", transaction_id="x", received_at=now - timedelta(hours=25)),
            *(refusals(old, field=f"V{number}", rows=1) for number in range(1, 6)),
            refusals(old, endpoint="/predict/batch", rows=4),
            refusals(young, rows=2),
            refusals(now - timedelta(hours=25)),
            refusals(old, model_name="another"),
        ],
    )
    monitor = ("monitor", "--hours", "24", "--state", str(state.root))
    done = fraudops(database, *monitor, "--json")
    read = json.loads(done.stdout)
    assert read["labels"] == {
        "received": 6,
        "settled": 5,
        "weight": 1.0,
        "checked": 5,
        "unmatched": 2,
        "contradictory": 2,
        "estimated": False,
        "unmatched_share": 0.4,
        "margin_95": None,
    }
    assert (read["refused"]["rows"], read["refused"]["share"]) == (11, 11 / 12)
    assert len(read["refused"]["reasons"]) == 5
    most = {"field": "Amount", "reason": "below_minimum", "rows": 6}
    assert read["refused"]["reasons"][0] == most
    text = fraudops(database, *monitor).stdout
    for sentence in (
        "Labels that arrived in this window: 6. Of those older than 10 minutes, 2 (40.00%) match"
        " no answer. For 2, another label of the transaction says the opposite.",
        "Refused transactions, which were not scored: 11 (91.67% of all): Amount below minimum 6;"
        " V1 below minimum 1;",
        "; 1 more reasons",
    ):
        assert sentence in text


def test_many_labels_are_sampled_and_their_share_comes_with_its_margin(
    database: str, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudops.audit.labels.SAMPLED_LABELS", 500)
    store(database, [prediction(transaction_id="t-1")])
    with psycopg.connect(database) as connection:
        # The last bits of an id are random, and the same in each run. Each fourth is matched.
        connection.execute(
            """INSERT INTO labels (id, transaction_id, label, labelled_at, source, received_at)
               SELECT CAST(md5('' || n) AS uuid), CASE WHEN n % 4 = 0 THEN 't-1' ELSE 'u-' || n END,
                      1, now() - interval '1 hour', 'rule', now() - interval '1 hour'
               FROM generate_series(1, 5000) AS n"""
        )
    read = fraudops(database, "monitor", "--json", "--state", str(state.root))
    labels = json.loads(read.stdout)["labels"]
    assert (labels["received"], labels["estimated"]) == (5_000, True)
    assert labels["weight"] == pytest.approx(10, rel=0.01)
    assert abs(labels["checked"] - 5_000) < 600
    assert 0 < labels["margin_95"] < 0.05
    assert abs(labels["unmatched_share"] - 0.75) < 1.5 * labels["margin_95"]
    assert "about " in fraudops(database, "monitor", "--state", str(state.root)).stdout


def test_a_shipper_that_no_longer_writes_is_called_silent(database: str, state: State) -> None:
    status = ShipperStatus(pid=1, at=datetime.now(UTC), phase="shipping")
    write_shipper_status(state, status)
    path = state.run / "shipper.json"
    path.write_text(path.read_text().replace(f'"at":"{status.at:%Y}', '"at":"2020'))
    assert (
        "The shipper is silent" in fraudops(database, "monitor", "--state", str(state.root)).stdout
    )


@pytest.mark.parametrize("arguments", [("monitor",), ("migrate", "--wait", "0")])
def test_without_postgresql_the_exit_code_is_75(state: State, arguments: tuple[str, ...]) -> None:
    done = fraudops(
        f"postgresql://u:secret@127.0.0.1:{free_port()}/d", *arguments, "--state", str(state.root)
    )
    assert done.returncode == 75
    assert "does not answer" in done.stderr
    assert "secret" not in done.stderr
    assert done.stdout == ""


def test_without_a_running_product_the_remedy_is_named(state: State) -> None:
    done = fraudops("", "monitor", "--state", str(state.root))
    assert done.returncode == 64
    assert "fraudops up" in done.stderr


def test_migrate_waits_for_its_database_and_may_run_again(postgresql: str, state: State) -> None:
    name = f"migrated_{uuid.uuid4().hex}"
    url = urlsplit(postgresql)._replace(path=f"/{name}").geturl()
    early = fraudops(url, "migrate", "--wait", "0", "--state", str(state.root))
    assert early.returncode == 75
    assert "no such database" in early.stderr
    with psycopg.connect(postgresql, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            for _ in range(2):
                done = fraudops(url, "migrate", "--state", str(state.root))
                assert done.returncode == 0, done.stderr
            with psycopg.connect(url) as connection:
                assert connection.execute("SELECT count(*) FROM predictions").fetchone() == (0,)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
