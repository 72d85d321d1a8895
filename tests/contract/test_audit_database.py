"""The audit tables that the migrations make in a real PostgreSQL."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psycopg
import pytest
from psycopg import sql
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from fraudops.audit.activity import activity
from fraudops.audit.connection import connect
from fraudops.audit.database import create_engine, translated
from fraudops.audit.migrations import upgrade
from fraudops.audit.partitions import ensure_partition, partition_name
from fraudops.audit.records import Record, encode
from fraudops.audit.tables import metadata, promotions
from fraudops.drift.window import recent
from fraudops.errors import SettingsError, StoreDownError
from services.shipper.sink import Sink
from tests.support.audit_records import prediction
from tests.support.migrations import back_to

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
async def engine(database: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(database)
    yield engine
    await engine.dispose()


@pytest.fixture
def empty_database(postgresql: str) -> Iterator[str]:
    """A database without the audit's tables."""
    name = f"empty_{uuid.uuid4().hex}"
    with psycopg.connect(postgresql, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield urlsplit(postgresql)._replace(path=f"/{name}").geturl()
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def store(url: str, records: list[Record]) -> None:
    sink = Sink(url)
    outcome = await sink.ship([encode(record) for record in records])
    await sink.close()
    assert not outcome.rejected


async def test_migrations_make_the_tables_that_the_code_names(engine: AsyncEngine) -> None:
    def described(connection: Any) -> dict[str, list[tuple[str, str, bool]]]:
        inspector = inspect(connection)
        columns = {table: inspector.get_columns(table) for table in metadata.tables}
        return {
            table: [
                (column["name"], column["type"].compile(connection.dialect), column["nullable"])
                for column in columns[table]
            ]
            for table in columns
        }

    async with engine.connect() as connection:
        actual = await connection.run_sync(described)
        dialect = connection.dialect
    named = {
        name: [
            (column.name, column.type.compile(dialect), bool(column.nullable))
            for column in table.columns
        ]
        for name, table in metadata.tables.items()
    }
    assert actual == named


async def test_migrating_again_and_concurrently_changes_nothing(empty_database: str) -> None:
    first = await asyncio.gather(*(upgrade(empty_database) for _ in range(3)))
    assert len(set(first)) == 1
    today = datetime.now(UTC).date()
    connection = await connect(empty_database)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    expected = {
        "fraudops_schema_version",
        *metadata.tables,
        partition_name(today),
        partition_name(today + timedelta(days=1)),
    }
    assert {row["tablename"] for row in tables} == expected


async def test_the_schema_of_a_newer_release_stays_and_is_written_to(empty_database: str) -> None:
    await upgrade(empty_database)
    connection = await connect(empty_database)
    await connection.execute(
        "ALTER TABLE predictions ADD COLUMN later text; "
        "UPDATE fraudops_schema_version SET version_num = '9999'"
    )
    migrated = await upgrade(empty_database)
    assert (migrated.revision, migrated.newer) == ("9999", True)
    assert "schema of a newer release (9999)" in migrated.summary("host:1/db")
    assert await connection.fetchval("SELECT version_num FROM fraudops_schema_version") == "9999"
    await connection.close()
    await store(empty_database, [prediction()])


async def test_a_table_full_of_an_earlier_releases_rows_is_migrated_untouched_or_not_at_all(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row is rewritten. Behind a long read the migration gives up instead of blocking others."""
    monkeypatch.setattr("fraudops.audit.migrations.TABLE_LOCK_SECONDS", 1)
    await upgrade(empty_database)
    connection, reader = await connect(empty_database), await connect(empty_database)
    await store(empty_database, [prediction() for _ in range(50)])
    await connection.execute(back_to("0001"))
    files = (
        "SELECT array_agg(relfilenode ORDER BY relname) FROM pg_class"
        " WHERE relname ~ '^predictions' AND relname !~ 'sample|prediction_expr|entity_key'"
    )
    before = await connection.fetchval(files)
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM predictions")
        with pytest.raises(StoreDownError, match="try again"):
            await upgrade(empty_database)
        assert (
            await connection.fetchval("SELECT version_num FROM fraudops_schema_version") == "0001"
        )
    await upgrade(empty_database)
    assert await connection.fetchval(files) == before
    assert (
        await connection.fetchval(
            "SELECT count(*) FROM predictions"
            " WHERE features IS NOT NULL AND features_sealed IS NULL"
        )
        == 50
    )
    await store(empty_database, [prediction(features=b"\x01sealed")])
    await connection.close()
    await reader.close()


async def test_promotions_of_an_earlier_release_stay_and_more_of_them_fit(
    empty_database: str,
) -> None:
    await upgrade(empty_database)
    connection = await connect(empty_database)
    await connection.execute(back_to("0003"))
    values = {
        "request": "r",
        "started_at": NOON,
        "model_name": "m",
        "to_version": "2",
        "to_digest": "d",
        "strategy": "broadcast",
        "outcome": "done",
        "requested_by": "me",
    }
    insert_earlier = (
        f"INSERT INTO promotions (id, {', '.join(values)}) VALUES "
        f"($1, {', '.join(f'${place}' for place in range(2, len(values) + 2))})"
    )
    await connection.execute(insert_earlier, uuid.uuid4(), *values.values())
    await upgrade(empty_database)
    await connection.execute(insert_earlier, uuid.uuid4(), *values.values())
    await connection.close()
    acts = {"act": "rollback", "waiver_reason": "an outage", "behind": ["pod-a", "pod-b"]}
    acts |= {"actor": "ada", "authenticated": True, "approver": "eve", "signer": "12ab"}
    engine = create_engine(empty_database)
    async with engine.begin() as session:
        for more in (acts, dict.fromkeys(acts)):
            await session.execute(promotions.insert().values(id=uuid.uuid4(), **values, **more))
        found = await session.execute(
            text(f"SELECT {', '.join(acts)} FROM promotions WHERE behind IS NOT NULL")
        )
        assert found.all() == [tuple(acts.values())]
        unknown = "SELECT count(*) FROM promotions WHERE act IS NULL AND authenticated IS NULL"
        assert (await session.execute(text(unknown))).scalar() == 3
    await engine.dispose()


async def test_concurrent_requests_make_a_partition_once(database: str) -> None:
    connections = [await connect(database) for _ in range(4)]
    assert (
        await asyncio.gather(
            *(ensure_partition(connection, date(2020, 2, 29)) for connection in connections)
        )
        == [True] * 4
    )
    bound = await connections[0].fetchval(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'predictions_20200229'"
    )
    assert bound == "FOR VALUES FROM ('2020-02-29 00:00:00+00') TO ('2020-03-01 00:00:00+00')"
    indexes = await connections[0].fetchval(
        "SELECT count(*) FROM pg_indexes WHERE tablename = 'predictions_20200229'"
    )
    assert indexes == 5
    for connection in connections:
        await connection.close()


async def test_a_partition_is_made_while_a_reader_holds_the_table(database: str) -> None:
    reader, maker = await connect(database), await connect(database)
    await maker.execute("SET lock_timeout = '5s'")
    async with reader.transaction():
        await reader.fetch("SELECT * FROM predictions")
        assert await ensure_partition(maker, date(2020, 3, 1))
    await reader.close()
    await maker.close()


async def test_a_day_that_retention_detached_is_not_made_again(database: str) -> None:
    connection = await connect(database)
    await ensure_partition(connection, date(2020, 1, 1))
    await connection.execute("ALTER TABLE predictions DETACH PARTITION predictions_20200101")
    assert not await ensure_partition(connection, date(2020, 1, 1))
    await connection.close()


@pytest.mark.parametrize(
    "change",
    [
        ("postgresql://", "postgres://"),
        ("postgresql://", "postgresql+asyncpg://"),
        ("$", "?sslmode=prefer&application_name=x"),
    ],
)
async def test_every_common_form_of_the_url_is_accepted(
    database: str, change: tuple[str, str]
) -> None:
    url = database + change[1] if change[0] == "$" else database.replace(*change)
    engine = create_engine(url)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SHOW timezone")) == "UTC"
    await engine.dispose()


@pytest.mark.parametrize(
    "url", ["mysql://u:secret@h/d", "secret", "postgresql://u:sec/ret@h:54x/d"]
)
def test_an_unusable_url_is_a_wrong_setting_and_is_not_quoted(url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as refused:
        create_engine(url)
    assert "sec" not in str(refused.value)


def broken(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return {
        "does not answer": parts._replace(netloc=f"u:secret@{parts.hostname}:1").geturl(),
        "refuses this user or password": parts._replace(
            netloc=f"{parts.username}:secret@{parts.hostname}:{parts.port}"
        ).geturl(),
        "no such database": parts._replace(path="/nowhere").geturl(),
    }


@pytest.mark.parametrize(
    "reason", ["does not answer", "refuses this user or password", "no such database"]
)
async def test_a_connection_error_names_its_reason_without_the_password(
    postgresql: str, reason: str
) -> None:
    engine = create_engine(broken(postgresql)[reason])
    with pytest.raises(StoreDownError, match=reason) as down:
        await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert "secret" not in str(down.value)
    assert "127.0.0.1" in str(down.value)
    await engine.dispose()


async def test_a_database_without_tables_names_the_remedy(empty_database: str) -> None:
    engine = create_engine(empty_database)
    with pytest.raises(StoreDownError, match="fraudops migrate"):
        await recent(engine, NOON, NOON + HOUR, 10, ["V1"])
    await engine.dispose()


async def test_a_connection_that_the_server_ends_is_a_store_that_is_down(postgresql: str) -> None:
    ended, other = await connect(postgresql), await connect(postgresql)
    await other.execute("SELECT pg_terminate_backend($1)", ended.get_server_pid())
    with pytest.raises(StoreDownError), translated(postgresql):
        await ended.execute("SELECT pg_sleep(5)")
    await other.close()


async def test_a_defect_is_not_reported_as_a_store_that_is_down(database: str) -> None:
    connection = await connect(database)
    with pytest.raises(asyncpg.PostgresSyntaxError), translated():
        await connection.execute("SELEKT")
    await connection.close()


def test_a_client_that_lost_its_state_when_the_server_went_is_a_store_that_is_down() -> None:
    """asyncpg raises this error, rarely, when a connection ends within a COPY.

    It is not a PostgresError.
    """
    with pytest.raises(StoreDownError), translated():
        raise asyncpg.InternalClientError(
            "cannot switch to state 15; another operation (2) is in progress"
        )
