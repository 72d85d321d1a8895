"""The shipper as a process between a real spool and a real PostgreSQL, under faults."""

import signal
import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from fraudops.audit.migrations import migrate
from fraudops.audit.records import encode, new_label
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import list_segments
from fraudops.state import State
from services.supervisor.postgresql import PostgreSQL
from services.supervisor.postgresql_standalone import start, stop
from tests.support.audit_records import fill, prediction
from tests.support.processes import free_port
from tests.support.shippers import CARD, Start, expect, expect_empty, ids
from tests.support.waiting import eventually


def test_spooled_records_are_in_the_tables_once_and_leave_the_spool(
    state: State, start_shipper: Start, database: str
) -> None:
    record = prediction(
        features={"V1": 0.1, "Amount": 1e-300}, transaction_id="t-1", latency_ms=1.25
    )
    label = new_label(1, datetime(2026, 11, 2, tzinfo=UTC), "analyst", transaction_id="t-1")
    fill(state.spool, [record, label])
    shipper = start_shipper(database)
    expect(database, [record.id])
    expect_empty(state)
    with psycopg.connect(database) as connection:
        row = connection.execute(
            'SELECT "timestamp", features, latency_ms, transaction_id, entity_key, model_version'
            " FROM predictions"
        ).fetchone()
        assert row
        assert int(row[0].timestamp() * 1000) == int(record.id.replace("-", "")[:12], 16)
        assert row[1:] == ({"V1": 0.1, "Amount": 1e-300}, 1.25, "t-1", None, "3")
        stored = connection.execute(
            "SELECT id, label, labelled_at, source, transaction_id, prediction_id FROM labels"
        ).fetchall()
    assert stored == [(uuid.UUID(label.id), 1, label.labelled_at, "analyst", "t-1", None)]

    def all_shipped() -> None:
        assert (
            shipper.status.shipped,
            shipper.status.backlog_bytes,
            shipper.status.phase,
            shipper.status.last_error,
        ) == (2, 0, "shipping", None)

    eventually(all_shipped)


def test_a_full_disk_does_not_keep_the_shipper_from_shipping(
    state: State, start_shipper: Start, database: str
) -> None:
    writer = SpoolWriter(state.spool, "w1", SpoolOptions())
    records = [prediction() for _ in range(5)]
    writer.append_many([encode(record) for record in records])
    writer.close()
    (segment,) = list_segments(state.spool)
    # Every write to /dev/full fails with ENOSPC.
    (state.spool / f"{segment.name}.position").symlink_to("/dev/full")
    obstacle = state.run / "shipper.json"
    obstacle.mkdir(parents=True)
    running = start_shipper(database)
    expect(database, [record.id for record in records])
    expect_empty(state)
    assert running.process.poll() is None
    obstacle.rmdir()
    eventually(lambda: running.status)
    assert running.end() == 0


def test_a_living_worker_is_shipped_while_it_writes(
    state: State, start_shipper: Start, database: str
) -> None:
    writer = SpoolWriter(state.spool, "worker-1", SpoolOptions())
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


def test_the_shipper_waits_for_the_database_and_its_tables_and_says_so(
    state: State, start_shipper: Start, postgresql: str
) -> None:
    name = f"late_{uuid.uuid4().hex}"
    url = urlsplit(postgresql)._replace(path=f"/{name}").geturl()
    sent = fill(state.spool, [prediction() for _ in range(5)])
    shipper = start_shipper(url)

    def waits_for(reason: str) -> None:
        assert shipper.status.phase == "waiting"
        assert reason in (shipper.status.last_error or "")

    eventually(lambda: waits_for("no such database"))
    with psycopg.connect(postgresql, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            eventually(lambda: waits_for("run `fraudops migrate`"))
            assert shipper.status.backlog_bytes > 0
            migrate(url)
            expect(url, sent)
            assert shipper.end() == 0
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_an_outage_of_postgresql_loses_and_doubles_nothing(
    state: State, start_shipper: Start, tmp_path: Path
) -> None:
    server = PostgreSQL(tmp_path / "server", free_port())
    running = start(server, tmp_path / "postgresql.log", fsync="off")
    try:
        migrate(server.url())
        start_shipper(server.url())
        writer = SpoolWriter(state.spool, "worker-1", SpoolOptions())
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


def test_a_shipper_killed_again_and_again_ships_everything_once(
    state: State, start_shipper: Start, database: str
) -> None:
    sent: list[str] = []
    ending = threading.Event()

    def write(name: str) -> None:
        writer = SpoolWriter(state.spool, name, SpoolOptions(segment_bytes=1 << 16))
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


def test_connections_that_postgresql_ends_are_made_again(
    state: State, start_shipper: Start, database: str, postgresql: str
) -> None:
    """Terminate the shipper's connection four times, whatever statement it runs at that moment."""
    sent = fill(state.spool, [prediction() for _ in range(6_000)])
    query = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = %s AND application_name = 'fraudops-shipper'"
    )
    shipper = start_shipper(database)
    with psycopg.connect(postgresql, autocommit=True) as admin:

        def ended() -> None:
            row = admin.execute(query, [urlsplit(database).path[1:]]).fetchone()
            assert row
            assert row[0] == 1

        for _ in range(4):
            eventually(ended, pause=0.01)
    expect(database, sent)
    assert shipper.process.poll() is None


def test_a_stopped_shipper_ships_the_whole_spool_first(
    state: State, start_shipper: Start, database: str
) -> None:
    shipper = start_shipper(database)
    eventually(lambda: shipper.status)
    writer = SpoolWriter(state.spool, "worker-1", SpoolOptions())
    records = [prediction() for _ in range(2_000)]
    writer.append_many([encode(record) for record in records])
    assert shipper.end() == 0
    assert ids(database) == sorted(record.id for record in records)
    assert shipper.status.phase == "stopped"
    assert shipper.status.backlog_bytes == 0
    writer.close()


def test_a_shipper_stopped_without_postgresql_leaves_the_spool_and_ends_with_0(
    state: State, start_shipper: Start
) -> None:
    fill(state.spool, [prediction() for _ in range(5)])
    shipper = start_shipper(f"postgresql://u:{CARD}@127.0.0.1:{free_port()}/d")

    def waits() -> None:
        assert shipper.status.phase == "waiting"

    eventually(waits)
    assert shipper.end() == 0
    assert shipper.status.backlog_bytes > 0
    assert len(list_segments(state.spool)) == 1
    assert CARD not in shipper.log.read_text()


def test_a_second_shipper_waits_for_the_first(
    state: State, start_shipper: Start, database: str
) -> None:
    first = start_shipper(database)
    eventually(lambda: first.status)
    second = start_shipper(database)

    def waits() -> None:
        assert "another shipper works on" in second.log.read_text()

    eventually(waits)
    assert first.end() == 0
    eventually(lambda: second.status)
    sent = fill(state.spool, [prediction()])
    expect(database, sent)
    assert second.end() == 0


def test_a_wrong_database_url_ends_the_shipper_with_the_code_of_a_wrong_setting(
    start_shipper: Start,
) -> None:
    shipper = start_shipper(f"mysql://u:{CARD}@127.0.0.1/d")
    assert shipper.process.wait(10) == 64
    assert "DATABASE_URL" in shipper.log.read_text()
    assert CARD not in shipper.log.read_text()


def test_the_shipper_imports_neither_sqlalchemy_nor_anything_heavy() -> None:
    program = (
        "import sys, services.shipper.__main__\n"
        "print(sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert not [
        name
        for name in ("sqlalchemy", "alembic", "numpy", "pandas", "fastapi", "mlflow", "sklearn")
        if f"'{name}'" in loaded
    ]
