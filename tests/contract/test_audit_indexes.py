"""Days of an earlier release get their missing index while others read and write.

The indexing stops at its deadline.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fraudops.audit import indexing
from fraudops.audit.connection import connect
from fraudops.audit.indexing import LABELS_INDEX, index_days, index_labels
from fraudops.audit.migrations import upgrade
from fraudops.audit.partitions import INDEX_LOCK, partition_name
from fraudops.audit.records import encode
from services.shipper.sink import Sink
from tests.support.audit_records import prediction
from tests.support.migrations import back_to

TODAY = datetime.now(UTC).date()
TOMORROW, EARLIER = TODAY + timedelta(days=1), TODAY - timedelta(days=3)
DAYS = [partition_name(day) for day in (TOMORROW, TODAY, EARLIER)]
PARTS = """
SELECT count(*) FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid
WHERE inhparent = 'predictions_sample'::regclass AND indisvalid
"""


@pytest.fixture
async def connection(database: str) -> AsyncIterator[Any]:
    """A connection to a database as release 0002 left it.

    Two days have rows, and one day has none.
    """
    connection = await connect(database)
    sink = Sink(database)
    noon = datetime(EARLIER.year, EARLIER.month, EARLIER.day, 12, tzinfo=UTC)
    assert (
        await sink.ship(
            [encode(prediction(moment)) for moment in (noon, datetime.now(UTC)) for _ in range(20)]
        )
    ).new == 40
    await sink.close()
    await connection.execute(back_to("0002"))
    yield connection
    await connection.close()


async def indexed(connection: Any) -> tuple[int, bool]:
    """Return the number of days with an index, and whether the table's index is valid."""
    valid = await connection.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'predictions_sample'::regclass"
    )
    return await connection.fetchval(PARTS), valid


async def test_migrating_indexes_the_days_that_are_there(connection: Any, database: str) -> None:
    await upgrade(database)
    assert await indexed(connection) == (3, True)
    whole = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'predictions_entity_key'::regclass"
    assert await connection.fetchval(whole)
    assert await index_days(database, 60) == ([], [], None)


async def test_a_day_with_an_open_write_is_left_for_the_next_migration(
    connection: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers and writers never wait for the indexing."""
    monkeypatch.setattr("fraudops.audit.migrations.INDEX_SECONDS", 0)
    monkeypatch.setattr("fraudops.audit.indexing.LOCK_SECONDS", 1)
    await upgrade(database)
    assert await indexed(connection) == (0, False)
    writer = await connect(database)
    async with writer.transaction():
        await writer.execute(f"UPDATE {DAYS[1]} SET features = NULL")
        assert await index_days(database, 60) == ([DAYS[0], DAYS[2]], [DAYS[1]], None)
        assert await indexed(connection) == (2, False)
    await writer.close()
    assert await index_days(database, 60) == ([DAYS[1]], [], None)
    assert await indexed(connection) == (3, True)


async def test_a_day_that_got_one_of_its_two_indexes_is_left(
    connection: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index_day = indexing._index_day

    async def one_alone(connection: Any, watch: Any, row: Any, deadline: float) -> None:
        if row["index"] == "predictions_entity_key":
            raise TimeoutError
        await index_day(connection, watch, row, deadline)

    monkeypatch.setattr("fraudops.audit.migrations.INDEX_SECONDS", 0)
    await upgrade(database)
    with monkeypatch.context() as changed:
        changed.setattr(indexing, "_index_day", one_alone)
        assert await index_days(database, 60) == ([], DAYS, None)
    assert await indexed(connection) == (3, True)
    assert await index_days(database, 60) == (DAYS, [], None)


async def test_one_process_indexes_at_a_time_and_begins_no_day_after_the_deadline(
    connection: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudops.audit.migrations.INDEX_SECONDS", 0)
    await upgrade(database)
    assert await index_days(database, 0) == ([], DAYS, None)
    other = await connect(database)
    await other.execute(f"SELECT pg_advisory_lock({INDEX_LOCK})")
    assert await index_days(database, 60) == ([], [], None)
    await other.close()
    assert await index_days(database, 60) == (DAYS, [], None)


async def test_a_day_made_during_the_indexing_has_the_index_from_the_start(
    connection: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudops.audit.migrations.INDEX_SECONDS", 0)
    await upgrade(database)
    sink = Sink(database)
    await sink.ship([encode(prediction(datetime.now(UTC) + timedelta(days=2)))])
    await sink.close()
    assert await indexed(connection) == (1, False)


async def test_a_stricter_isolation_of_the_role_does_not_block_the_indexing(
    connection: Any, database: str
) -> None:
    """The transaction of the lock must keep no snapshot: the index would wait for it."""
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    )
    await upgrade(database)
    assert await indexed(connection) == (3, True)


async def test_a_long_reader_of_another_table_holds_no_day_up_for_long(
    connection: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudops.audit.migrations.INDEX_SECONDS", 0)
    monkeypatch.setattr("fraudops.audit.indexing.LOCK_SECONDS", 1)
    await upgrade(database)
    reader = await connect(database)
    async with reader.transaction(isolation="repeatable_read"):
        await reader.fetch("SELECT count(*) FROM labels")
        async with asyncio.timeout(300):
            assert await index_days(database, 600) == ([], DAYS, None)
    await reader.close()
    assert await index_days(database, 60) == (DAYS, [], None)


async def test_a_limit_of_the_role_that_ends_the_indexing_is_named(
    connection: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudops.audit.migrations.INDEX_SECONDS", 0)
    await upgrade(database)
    name = await connection.fetchval("SELECT current_database()")
    await connection.execute(f"ALTER DATABASE {name} SET statement_timeout = '1s'")
    reader = await connect(database)
    async with reader.transaction(isolation="repeatable_read"):
        await reader.fetch("SELECT count(*) FROM labels")
        indexed_days = await index_days(database, 60)
    await reader.close()
    assert indexed_days.left == DAYS
    assert "statement_timeout = 1s: run ALTER ROLE" in str(indexed_days.limit)


async def test_labels_are_indexed_by_their_arrival_while_others_write(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraudops.audit.indexing.LOCK_SECONDS", 1)
    connection, writer = await connect(database), await connect(database)
    await connection.execute(f"DROP INDEX IF EXISTS {LABELS_INDEX}")
    valid = f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{LABELS_INDEX}')"
    assert not await index_labels(database, 0)
    async with writer.transaction():
        await writer.execute("DELETE FROM labels")
        assert not await index_labels(database, 60)
    # A build that was cancelled leaves an invalid index.
    async with writer.transaction(isolation="repeatable_read"):
        await writer.fetch("SELECT count(*) FROM predictions")
        assert not await index_labels(database, 60)
    assert not await connection.fetchval(valid)
    await connection.execute(f"SELECT pg_advisory_lock({INDEX_LOCK})")
    assert not await index_labels(database, 60)
    await connection.execute("SELECT pg_advisory_unlock_all()")
    assert await index_labels(database, 60)
    assert await index_labels(database, 0)
    assert await connection.fetchval(valid)
    await connection.execute(f"DROP INDEX {LABELS_INDEX}")
    await upgrade(database)
    assert await connection.fetchval(valid)
    await connection.close()
    await writer.close()
