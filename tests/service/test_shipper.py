"""The shipper as a process, between a real spool and a real PostgreSQL, and what must hold whatever dies."""

import base64
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from fraudops.audit.database import migrate
from fraudops.audit.records import encode, new_label
from fraudops.audit.shipping import ShipperState, read_shipper_state
from fraudops.settings import AuditSettings
from fraudops.spool import SpoolWriter
from fraudops.spool.frames import encode_frame
from fraudops.spool.segments import list_segments
from fraudops.state import State
from services.inference.metrics import PodNow
from services.supervisor.postgresql import PostgreSQL, start, stop
from tests.audit_records import fill, prediction
from tests.support import eventually, free_port

CARD = "4111111111111111"


@dataclass
class Running:
    """One shipper process on a state folder of its own."""

    state: State
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def told(self) -> ShipperState:
        told = read_shipper_state(self.state)
        assert told
        assert told.pid == self.process.pid
        return told

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


Start = Callable[..., Running]


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.at(tmp_path / "state")


@pytest.fixture
def start_shipper(state: State, tmp_path: Path) -> Iterator[Start]:
    started: list[Running] = []

    def begin(url: str, **more: str) -> Running:
        log = tmp_path / "shipper.log"
        environment = {**os.environ, "DATABASE_URL": url, "FRAUDOPS_STATE": str(state.root), **more}
        with log.open("ab") as output:
            process = subprocess.Popen([sys.executable, "-m", "services.shipper"], env=environment, stdout=output, stderr=output)
        started.append(Running(state, process, log))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)


def ids(url: str, table: str = "predictions") -> list[str]:
    with psycopg.connect(url) as connection:
        return [str(row[0]) for row in connection.execute(sql.SQL("SELECT id FROM {} ORDER BY id").format(sql.Identifier(table)))]


def expect(url: str, wanted: list[str], seconds: float = 20) -> None:
    def all_there() -> None:
        assert ids(url) == sorted(wanted)

    eventually(all_there, seconds)


def expect_empty(state: State) -> None:
    """All shipped and removed, nothing left but the lock."""

    def nothing_left() -> None:
        assert [path.name for path in state.spool.iterdir() if path.is_file()] == ["shipper.lock"]

    eventually(nothing_left)


def set_aside(state: State) -> list[dict[str, str]]:
    lines = [line for path in sorted((state.spool / "aside").glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]


def test_what_is_spooled_is_in_the_tables_once_and_leaves_the_spool(state: State, start_shipper: Start, database: str) -> None:
    record = prediction(features={"V1": 0.1, "Amount": 1e-300}, transaction_id="t-1", latency_ms=1.25)
    label = new_label(1, datetime(2026, 11, 2, tzinfo=UTC), "analyst", transaction_id="t-1")
    fill(state.spool, [record, label])
    shipper = start_shipper(database)
    expect(database, [record.id])
    expect_empty(state)
    with psycopg.connect(database) as connection:
        row = connection.execute('SELECT "timestamp", features, latency_ms, transaction_id, entity_key, model_version FROM predictions').fetchone()
        assert row
        assert int(row[0].timestamp() * 1000) == int(record.id.replace("-", "")[:12], 16)
        assert row[1:] == ({"V1": 0.1, "Amount": 1e-300}, 1.25, "t-1", None, "3")
        stored = connection.execute("SELECT id, label, labelled_at, source, transaction_id, prediction_id FROM labels").fetchall()
    assert stored == [(uuid.UUID(label.id), 1, label.labelled_at, "analyst", "t-1", None)]

    def told_so() -> None:
        assert (shipper.told.shipped, shipper.told.backlog_bytes, shipper.told.doing, shipper.told.last_error) == (2, 0, "shipping", None)

    eventually(told_so)


def test_a_living_worker_is_shipped_while_it_writes(state: State, start_shipper: Start, database: str) -> None:
    writer = SpoolWriter(state.spool, "worker-1", AuditSettings())
    start_shipper(database)
    sent: list[str] = []
    for _ in range(3):
        records = [prediction() for _ in range(10)]
        writer.append_many([encode(record) for record in records])
        sent += [record.id for record in records]
        expect(database, sent)
    assert len(list_segments(state.spool)) == 1
    writer.close()
    expect_empty(state)


def test_it_waits_for_the_database_and_for_its_tables_and_says_so(state: State, start_shipper: Start, postgresql: str) -> None:
    """Neither exists when it starts; it makes neither."""
    name = f"late_{uuid.uuid4().hex}"
    url = urlsplit(postgresql)._replace(path=f"/{name}").geturl()
    sent = fill(state.spool, [prediction() for _ in range(5)])
    shipper = start_shipper(url)

    def waits_for(reason: str) -> None:
        assert shipper.told.doing == "waiting"
        assert reason in (shipper.told.last_error or "")

    eventually(lambda: waits_for("no such database"))
    with psycopg.connect(postgresql, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            eventually(lambda: waits_for("run `fraudops migrate`"), 15)
            assert shipper.told.backlog_bytes > 0
            migrate(url)
            expect(url, sent)
            assert shipper.end() == 0
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_an_outage_of_postgresql_loses_and_doubles_nothing(state: State, start_shipper: Start, tmp_path: Path) -> None:
    server = PostgreSQL(tmp_path / "server", free_port())
    running = start(server, tmp_path / "postgresql.log", fsync="off")
    try:
        migrate(server.url())
        start_shipper(server.url())
        writer = SpoolWriter(state.spool, "worker-1", AuditSettings())
        before = [prediction() for _ in range(200)]
        writer.append_many([encode(record) for record in before])
        expect(server.url(), [record.id for record in before])
        running.kill()
        running.wait()
        during = [prediction() for _ in range(200)]
        writer.append_many([encode(record) for record in during])
        running = start(server, tmp_path / "postgresql.log", fsync="off")
        expect(server.url(), [record.id for record in [*before, *during]])
        writer.close()
    finally:
        stop(running)


def test_a_shipper_killed_again_and_again_ships_everything_once(state: State, start_shipper: Start, database: str) -> None:
    sent: list[str] = []
    ending = threading.Event()

    def write(name: str) -> None:
        writer = SpoolWriter(state.spool, name, AuditSettings(segment_max_bytes=1 << 16))
        while not ending.wait(0.002):
            records = [prediction() for _ in range(5)]
            writer.append_many([encode(record) for record in records])
            sent.extend(record.id for record in records)
        writer.close()

    writers = [threading.Thread(target=write, args=(f"worker-{number}",)) for number in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(4):
            shipper = start_shipper(database)
            already = len(ids(database))
            eventually(lambda seen=already: _grew(database, seen))
            shipper.end(signal.SIGKILL)
    finally:
        ending.set()
        for writer in writers:
            writer.join()
    start_shipper(database)
    expect(database, sent)
    expect_empty(state)


def _grew(url: str, seen: int) -> None:
    assert len(ids(url)) > seen


def test_connections_that_postgresql_ends_are_made_again(state: State, start_shipper: Start, database: str, postgresql: str) -> None:
    """In the middle of whatever it does: connecting, COPY, commit, idle."""
    sent = fill(state.spool, [prediction() for _ in range(6_000)])
    query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %s AND application_name = 'fraudops-shipper'"
    shipper = start_shipper(database)
    with psycopg.connect(postgresql, autocommit=True) as admin:

        def ended() -> None:
            row = admin.execute(query, [urlsplit(database).path[1:]]).fetchone()
            assert row
            assert row[0] == 1

        for _ in range(4):
            eventually(ended, 20, pause=0.01)
    expect(database, sent)
    assert shipper.process.poll() is None


def test_a_replayed_segment_changes_nothing(state: State, start_shipper: Start, database: str) -> None:
    sent = fill(state.spool, [prediction() for _ in range(20)])
    [segment] = list_segments(state.spool)
    copy = (state.spool / segment.name).read_bytes()
    shipper = start_shipper(database)
    expect_empty(state)
    (state.spool / segment.name).write_bytes(copy)

    def replayed() -> None:
        assert shipper.told.replayed == 20

    eventually(replayed)
    expect_empty(state)
    assert ids(database) == sorted(sent)


def test_rows_that_postgresql_refuses_are_set_aside_and_block_nothing(state: State, start_shipper: Start, database: str) -> None:
    good = [prediction(entity_key=CARD) for _ in range(50)]
    poison = [
        prediction(entity_key=f"{CARD}\x00"),
        prediction(features={"V1\x00": 1.0}),
        prediction(prediction=7),
        prediction(prediction=1 << 40),
        prediction(fraud_probability=1.5),
        prediction(fraud_probability=float("nan")),
        prediction(id="00000000-0000-7000-8000-00000000000g"),
        prediction(id=f"{CARD}{CARD}0000"),
        prediction(id="ffffffff-ffff-7fff-8fff-ffffffffffff"),
        new_label(3, datetime.now(UTC), "analyst", transaction_id="t-1"),
        new_label(1, datetime.now(UTC), "analyst"),
        new_label(1, datetime.now(UTC), "analyst", prediction_id=CARD),
    ]
    mixed = [*good[:20], *poison[:6], *good[20:35], *poison[6:], *good[35:]]
    writer = SpoolWriter(state.spool, "worker-1", AuditSettings())
    writer.append_many([*(encode(record) for record in mixed), b"no record at all"])
    writer.close()
    shipper = start_shipper(database)
    expect(database, [record.id for record in good])
    expect_empty(state)
    kept = set_aside(state)
    assert sorted(base64.b64decode(line["payload"]) for line in kept) == sorted([*(encode(record) for record in poison), b"no record at all"])
    assert all(line["reason"] for line in kept)
    assert ids(database, "labels") == []

    def told_so() -> None:
        assert shipper.told.set_aside == len(poison) + 1

    eventually(told_so)
    log = shipper.log.read_text()
    assert "set aside" in log
    assert CARD not in log


def test_the_services_metrics_show_the_spool_and_its_shipper(state: State, start_shipper: Start, database: str) -> None:
    """The service beside the shipper renders what the shipper writes of itself."""
    fill(state.spool, [*(prediction() for _ in range(20)), prediction(fraud_probability=1.5)])
    copies = {path: path.read_bytes() for path in state.spool.glob("*.seg")}
    before = metrics(state)
    assert before["fraudops_spool_bytes"] > 0
    assert "fraudops_spool_rows" not in before

    away = start_shipper(f"postgresql://u:p@127.0.0.1:{free_port()}/d")

    def waits() -> None:
        found = metrics(state)
        assert (found["fraudops_spool_rows"], found["fraudops_shipper_waiting"], found["fraudops_shipper_shipped_total"]) == (21, 1, 0)
        assert found["fraudops_spool_unshipped_bytes"] > 0
        assert 0 < found["fraudops_spool_oldest_seconds"] < 60
        assert found["fraudops_shipper_silent_seconds"] < 60

    eventually(waits)
    away.end()
    shipper = start_shipper(database)
    expect_empty(state)
    for path, content in copies.items():
        path.write_bytes(content)

    def shipped() -> None:
        found = metrics(state)
        counts = [found[f"fraudops_shipper_{name}_total"] for name in ("shipped", "replayed", "set_aside", "missing")]
        assert counts == [40, 20, 2, 0]
        assert (found["fraudops_spool_rows"], found["fraudops_spool_unshipped_bytes"], found["fraudops_shipper_waiting"]) == (0, 0, 0)
        assert (found["fraudops_spool_oldest_seconds"], found["fraudops_spool_aside_bytes"] > 0) == (0, True)

    eventually(shipped)
    shipper.end(signal.SIGKILL)

    def silent() -> None:
        assert metrics(state)["fraudops_shipper_silent_seconds"] > 1.5

    eventually(silent)


def metrics(state: State) -> dict[str, float]:
    return {sample.name: sample.value for family in PodNow(lambda: 1, state.spool).collect() for sample in family.samples}


def test_a_damaged_segment_is_shipped_around_its_damage(state: State, start_shipper: Start, database: str) -> None:
    records = [prediction() for _ in range(10)]
    frames = [bytearray(encode_frame(number, encode(record))) for number, record in enumerate(records)]
    frames[4][40] ^= 1
    state.spool.mkdir(parents=True)
    (state.spool / f"worker-1.{'0' * 32}.00000001.seg").write_bytes(b"".join(frames)[:-3])
    shipper = start_shipper(database)
    expect(database, [record.id for number, record in enumerate(records) if number not in (4, 9)])
    expect_empty(state)
    assert [base64.b64decode(line["payload"]) for line in set_aside(state)] == [frames[4], frames[9][:-3]]

    def told_so() -> None:
        assert (shipper.told.missing, shipper.told.set_aside) == (1, 2)

    eventually(told_so)


def test_the_partition_of_any_day_is_made_when_it_is_needed(state: State, start_shipper: Start, database: str) -> None:
    """A clock that was wrong, a spool that was found again: no job has made these days."""
    days = [datetime(2019, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=40)]
    sent = fill(state.spool, [prediction(day) for day in days])
    start_shipper(database, FRAUDOPS_RETENTION__DAYS="36500")
    expect(database, sent)


def test_rows_of_a_day_that_retention_took_are_set_aside(state: State, start_shipper: Start, database: str) -> None:
    day = datetime(2020, 1, 1, tzinfo=UTC)
    shipper = start_shipper(database, FRAUDOPS_RETENTION__DAYS="36500")
    first = fill(state.spool, [prediction(day)])
    expect(database, first)
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE predictions DETACH PARTITION predictions_20200101")
    fill(state.spool, [prediction(day) for _ in range(30)])
    fresh = fill(state.spool, [prediction()])
    expect(database, fresh)

    def told_so() -> None:
        assert shipper.told.set_aside == 30

    eventually(told_so)
    assert {line["reason"] for line in set_aside(state)} == {"the partition predictions_20200101 was taken out of the table: older than what is retained"}


def test_rows_older_than_what_is_retained_are_set_aside_and_make_no_partition(state: State, start_shipper: Start, database: str) -> None:
    """The day was dropped long ago: a new partition of it would take the rows along at the next retention."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    fill(state.spool, [prediction(today - timedelta(milliseconds=1, days=3)), prediction(today - timedelta(days=300))])
    kept = fill(state.spool, [prediction(today - timedelta(days=3)), prediction()])
    start_shipper(database, FRAUDOPS_RETENTION__DAYS="3")
    expect(database, kept)
    expect_empty(state)
    assert [line["reason"] for line in set_aside(state)] == ["older than the 3 days that are retained"] * 2
    with psycopg.connect(database) as connection:
        days = {row[0] for row in connection.execute("SELECT tablename FROM pg_tables WHERE tablename ~ '^predictions_'")}
    assert not any(day < f"predictions_{today - timedelta(days=3):%Y%m%d}" for day in days)


def test_a_stopped_shipper_ships_first_what_is_there(state: State, start_shipper: Start, database: str) -> None:
    shipper = start_shipper(database)
    eventually(lambda: shipper.told)
    writer = SpoolWriter(state.spool, "worker-1", AuditSettings())
    records = [prediction() for _ in range(2_000)]
    writer.append_many([encode(record) for record in records])
    assert shipper.end() == 0
    assert ids(database) == sorted(record.id for record in records)
    assert shipper.told.doing == "stopped"
    assert shipper.told.backlog_bytes == 0
    writer.close()


def test_stopped_without_postgresql_it_leaves_the_spool_and_ends_well(state: State, start_shipper: Start) -> None:
    fill(state.spool, [prediction() for _ in range(5)])
    shipper = start_shipper(f"postgresql://u:{CARD}@127.0.0.1:{free_port()}/d")

    def waits() -> None:
        assert shipper.told.doing == "waiting"

    eventually(waits)
    assert shipper.end() == 0
    assert shipper.told.backlog_bytes > 0
    assert len(list_segments(state.spool)) == 1
    assert CARD not in shipper.log.read_text()


def test_a_second_shipper_waits_for_the_first(state: State, start_shipper: Start, database: str) -> None:
    first = start_shipper(database)
    eventually(lambda: first.told)
    second = start_shipper(database)

    def waits() -> None:
        assert "another shipper works on" in second.log.read_text()

    eventually(waits)
    assert first.end() == 0
    eventually(lambda: second.told)
    sent = fill(state.spool, [prediction()])
    expect(database, sent)
    assert second.end() == 0


def test_a_wrong_database_url_ends_it_at_once_with_the_code_of_a_wrong_setting(start_shipper: Start) -> None:
    shipper = start_shipper(f"mysql://u:{CARD}@127.0.0.1/d")
    assert shipper.process.wait(10) == 64
    assert "DATABASE_URL" in shipper.log.read_text()
    assert CARD not in shipper.log.read_text()


def test_it_imports_neither_sqlalchemy_nor_anything_heavy() -> None:
    program = "import sys, services.shipper.__main__; print(sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("sqlalchemy", "alembic", "numpy", "pandas", "fastapi", "mlflow", "sklearn") if f"'{name}'" in loaded]
