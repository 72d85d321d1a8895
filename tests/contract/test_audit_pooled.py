"""The audit through PgBouncer in transaction mode.

Each transaction runs on another connection of the server, so nothing may outlive its transaction.
"""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from fraudops.audit.activity import activity
from fraudops.audit.connection import connect, open_connection
from fraudops.audit.database import create_engine
from fraudops.audit.indexing import index_days
from fraudops.audit.locking import advisory_lock
from fraudops.audit.migrations import upgrade
from fraudops.audit.partitions import ensure_partition, partition_name
from fraudops.audit.records import encode, new_label
from fraudops.settings import RetentionSettings
from jobs.retention import retain
from services.shipper.sink import Sink
from tests.support.audit_records import prediction
from tests.support.migrations import back_to
from tests.support.pgbouncer import needs_pgbouncer, running_pgbouncer
from tests.support.shippers import ids
from tests.support.waiting import eventually

pytestmark = needs_pgbouncer
CONNECTIONS = 4
TODAY = datetime.now(UTC).date()
LEFT_BEHIND = """
SELECT pg_backend_pid(), current_setting('lock_timeout'), current_setting('statement_timeout'),
       current_setting('idle_in_transaction_session_timeout'),
       (SELECT count(*) FROM pg_prepared_statements),
       (SELECT count(*) FROM pg_class WHERE relpersistence = 't' AND relkind = 'r'),
       (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database =
           (SELECT oid FROM pg_database WHERE datname = current_database()))
"""
HOLDER = """
import asyncio, sys
from fraudops.audit.locking import advisory_lock

async def hold():
    async with advisory_lock(sys.argv[1], 1, "test"):
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(hold())
"""


@pytest.fixture
def pooled(database: str, tmp_path: Path) -> Iterator[str]:
    """The URL of the database through the pooler, whose connections are all open."""
    with running_pgbouncer(tmp_path / "pgbouncer", database, size=CONNECTIONS) as pooler:
        url = pooler.behind(database)
        with ExitStack() as together:
            for _ in range(CONNECTIONS):
                together.enter_context(psycopg.connect(url)).execute("SELECT 1")
        assert len({row[0] for row in rows(url, LEFT_BEHIND, 2 * CONNECTIONS)}) == CONNECTIONS
        yield url
        leaves_nothing(url)


def rows(url: str, statement: str, times: int) -> list[tuple[object, ...]]:
    with psycopg.connect(url, prepare_threshold=None, autocommit=True) as connection:
        return [row for _ in range(times) for row in connection.execute(statement)]


def leaves_nothing(url: str) -> None:
    """Check that no connection of the server has a setting, statement, table or lock left."""
    found = {row[1:] for row in rows(url, LEFT_BEHIND, 3 * CONNECTIONS)}
    assert found == {("0", "0", "0", 0, 0, 0)}


async def test_rows_are_written_once_whatever_connection_they_meet(
    database: str, pooled: str
) -> None:
    label = encode(new_label(1, datetime(2026, 1, 1, tzinfo=UTC), "analyst", transaction_id="t-1"))
    groups = [[encode(prediction()) for _ in range(20)] for _ in range(8)]
    sinks = [Sink(pooled) for _ in range(3)]

    async def ship(sink: Sink) -> None:
        for group in groups:
            await sink.ship([*group, label])

    await asyncio.gather(*(ship(sink) for sink in sinks))
    for sink in sinks:
        await sink.close()
    assert len(ids(database)) == sum(map(len, groups))
    assert len(ids(database, "labels")) == 1


async def test_the_reports_read_through_the_pooler(database: str, pooled: str) -> None:
    sink = Sink(pooled)
    await sink.ship([encode(prediction()) for _ in range(50)])
    await sink.close()
    now, engines = datetime.now(UTC), [create_engine(pooled) for _ in range(4)]
    for _ in range(3):
        reports = await asyncio.gather(
            *(
                activity(engine, now - timedelta(hours=1), now + timedelta(hours=1), "credit-fraud")
                for engine in engines
            )
        )
        assert [total.answers for total, _ in reports] == [50] * 4
    for engine in engines:
        await engine.dispose()


async def test_migrations_of_several_programs_run_through_the_pooler(
    database: str, pooled: str
) -> None:
    async with open_connection(database) as connection:
        await connection.execute(back_to("0002"))
    done = await asyncio.gather(*(upgrade(pooled) for _ in range(3)))
    assert {migrated.newer for migrated in done} == {False}
    await index_days(pooled, 60)
    async with open_connection(database) as connection:
        assert await connection.fetchval(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = 'predictions_sample'::regclass"
        )


async def test_retention_exports_and_drops_days_through_the_pooler(
    database: str, pooled: str, tmp_path: Path
) -> None:
    old = TODAY - timedelta(days=500)
    sink = Sink(pooled)
    moment = datetime(old.year, old.month, old.day, 12, tzinfo=UTC)
    await sink.ship([encode(prediction(moment)) for _ in range(30)])
    await sink.close()
    settings = RetentionSettings(days=400, export=tmp_path)
    report = await retain(pooled, settings, dry_run=False)
    assert [(each["day"], each["rows"]) for each in report["dropped"]] == [(old, 30)]
    assert ids(database) == []


async def test_a_day_that_a_reader_holds_is_left_after_the_limit(
    database: str, pooled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No limit of the server is set, so the client's must reach the server through the pooler."""
    monkeypatch.setattr("fraudops.audit.retention.LOCK_SECONDS", 1)
    monkeypatch.setattr("fraudops.audit.retention.PAUSE_SECONDS", 0)
    day = date(2020, 1, 1)
    async with open_connection(database) as connection:
        await ensure_partition(connection, day)
    reader = await connect(database)
    async with reader.transaction():
        await reader.fetch(f"SELECT * FROM {partition_name(day)}")
        async with asyncio.timeout(60):
            report = await retain(pooled, RetentionSettings(days=400), dry_run=False)
        assert report["in_use"] == [day]
        # Other tests use other databases of the same server.
        waiting = (
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database"
            " WHERE NOT granted AND datname = current_database()"
        )
        assert await reader.fetchval(waiting) == 0
    await reader.close()
    report = await retain(pooled, RetentionSettings(days=400), dry_run=False)
    assert [each["day"] for each in report["dropped"]] == [day]


async def test_a_lock_holds_across_connections_and_ends_with_a_killed_program(pooled: str) -> None:
    async with advisory_lock(pooled, 1, "test") as held:
        assert held
        for _ in range(2 * CONNECTIONS):
            assert not await is_free(pooled)
            await held.check()
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, pooled, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout
    assert await holder.stdout.readline() == b"held\n"
    assert not await is_free(pooled)
    holder.kill()
    await holder.wait()
    await asyncio.to_thread(eventually, lambda: check_free(pooled), 30)


async def is_free(url: str) -> bool:
    async with advisory_lock(url, 1, "test") as held:
        return held is not None


def check_free(url: str) -> None:
    assert asyncio.run(is_free(url))
