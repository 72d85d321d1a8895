"""The audit tables as the migrations make them in a real PostgreSQL, and what the queries say about rows in them."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import numpy as np
import psycopg
import pytest
from psycopg import sql
from sqlalchemy import inspect, text
from sqlalchemy.ext.asyncio import AsyncEngine

from fraudops.audit.connection import connect
from fraudops.audit.database import create_engine, translated
from fraudops.audit.migrations import upgrade
from fraudops.audit.partitions import ensure_partition, partition_name
from fraudops.audit.privacy import protection
from fraudops.audit.queries import activity, recent
from fraudops.audit.records import Record, encode, new_label
from fraudops.audit.tables import metadata
from fraudops.errors import SettingsError, StoreDownError
from services.shipper.sink import Sink
from tests.audit_records import prediction

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
        found = inspect(connection)
        columns = {table: found.get_columns(table) for table in metadata.tables}
        return {table: [(column["name"], column["type"].compile(connection.dialect), column["nullable"]) for column in columns[table]] for table in columns}

    async with engine.connect() as connection:
        found = await connection.run_sync(described)
        dialect = connection.dialect
    named = {name: [(column.name, column.type.compile(dialect), bool(column.nullable)) for column in table.columns] for name, table in metadata.tables.items()}
    assert found == named


async def test_migrating_again_and_at_once_changes_nothing(empty_database: str) -> None:
    first = await asyncio.gather(*(upgrade(empty_database) for _ in range(3)))
    assert len(set(first)) == 1
    today = datetime.now(UTC).date()
    connection = await connect(empty_database)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    expected = {"fraudops_schema_version", *metadata.tables, partition_name(today), partition_name(today + timedelta(days=1))}
    assert {row["tablename"] for row in tables} == expected


async def test_a_table_full_of_an_earlier_releases_rows_is_migrated_untouched_or_not_at_all(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is rewritten, and while somebody reads for long the migration gives up rather than keep others waiting behind it."""
    monkeypatch.setattr("fraudops.audit.migrations.TABLE_LOCK_SECONDS", 1)
    await upgrade(empty_database)
    connection, reader = await connect(empty_database), await connect(empty_database)
    await store(empty_database, [prediction() for _ in range(50)])
    await connection.execute("ALTER TABLE predictions DROP COLUMN features_sealed")
    await connection.execute("UPDATE fraudops_schema_version SET version_num = '0001'")
    files = "SELECT array_agg(relfilenode ORDER BY relname) FROM pg_class WHERE relname ~ '^predictions'"
    before = await connection.fetchval(files)
    async with reader.transaction():
        await reader.fetch("SELECT count(*) FROM predictions")
        with pytest.raises(StoreDownError, match="try again"):
            await upgrade(empty_database)
        assert await connection.fetchval("SELECT version_num FROM fraudops_schema_version") == "0001"
    await upgrade(empty_database)
    assert await connection.fetchval(files) == before
    assert await connection.fetchval("SELECT count(*) FROM predictions WHERE features IS NOT NULL AND features_sealed IS NULL") == 50
    await store(empty_database, [prediction(features=b"\x01sealed")])
    await connection.close()
    await reader.close()


async def test_a_partition_is_made_once_however_many_ask(database: str) -> None:
    connections = [await connect(database) for _ in range(4)]
    assert await asyncio.gather(*(ensure_partition(connection, date(2020, 2, 29)) for connection in connections)) == [True] * 4
    bound = await connections[0].fetchval("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'predictions_20200229'")
    assert bound == "FOR VALUES FROM ('2020-02-29 00:00:00+00') TO ('2020-03-01 00:00:00+00')"
    indexes = await connections[0].fetchval("SELECT count(*) FROM pg_indexes WHERE tablename = 'predictions_20200229'")
    assert indexes == 3
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


@pytest.mark.parametrize("change", [("postgresql://", "postgres://"), ("postgresql://", "postgresql+asyncpg://"), ("$", "?sslmode=prefer&application_name=x")])
async def test_every_common_form_of_the_url_is_taken(database: str, change: tuple[str, str]) -> None:
    url = database + change[1] if change[0] == "$" else database.replace(*change)
    engine = create_engine(url)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SHOW timezone")) == "UTC"
    await engine.dispose()


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "secret", "postgresql://u:sec/ret@h:54x/d"])
def test_another_url_is_a_wrong_setting_and_is_not_quoted(url: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL") as refused:
        create_engine(url)
    assert "sec" not in str(refused.value)


def broken(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return {
        "does not answer": parts._replace(netloc=f"u:secret@{parts.hostname}:1").geturl(),
        "refuses this user or password": parts._replace(netloc=f"{parts.username}:secret@{parts.hostname}:{parts.port}").geturl(),
        "no such database": parts._replace(path="/nowhere").geturl(),
    }


@pytest.mark.parametrize("reason", ["does not answer", "refuses this user or password", "no such database"])
async def test_what_keeps_us_from_the_database_is_said_without_its_password(postgresql: str, reason: str) -> None:
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


async def test_a_defect_of_ours_is_not_called_a_store_that_is_down(database: str) -> None:
    connection = await connect(database)
    with pytest.raises(asyncpg.PostgresSyntaxError), translated():
        await connection.execute("SELEKT")
    await connection.close()


async def test_recent_rows_come_as_columns_in_order_of_time(engine: AsyncEngine, database: str) -> None:
    late = prediction(NOON + 2 * HOUR, features={"V1": 3.0, "Amount": 4.5}, prediction=1, fraud_probability=0.75)
    early = prediction(NOON, features={"V1": 1.0})
    await store(database, [late, early, prediction(NOON + 4 * HOUR), prediction(NOON + HOUR, model_digest="e" * 64)])
    found = await recent(engine, NOON, NOON + 3 * HOUR, 10, ["Amount", "V1"], model_digest="d" * 64)
    assert found.rows == 2
    assert found.id.tolist() == [early.id, late.id]
    assert found.timestamp.tolist() == [NOON.replace(tzinfo=None), (NOON + 2 * HOUR).replace(tzinfo=None)]
    assert found.prediction.tolist() == [0, 1]
    assert found.probability.tolist() == [0.125, 0.75]
    np.testing.assert_array_equal(found.features, [[np.nan, 1.0], [4.5, 3.0]])


async def test_features_are_opened_by_their_keys_and_the_rest_is_counted_by_its_reason(engine: AsyncEngine, database: str) -> None:
    key, other = bytes(32), bytes(range(32))
    records = [prediction(NOON + timedelta(minutes=number)) for number in range(4)]
    for place, (how, used) in enumerate((("sealed", key), ("sealed", other), ("hashed", key)), 1):
        keep = protection(how, [used])  # type: ignore[arg-type]
        assert keep
        records[place] = prediction(id=records[place].id, features=keep(records[place].id, {"V1": float(place)}))
    await store(database, list(records))
    found = await recent(engine, NOON, NOON + HOUR, 10, ["V1"], keys=[key])
    np.testing.assert_array_equal(found.features[:, 0], [-1.25, 1.0, np.nan, np.nan])
    assert found.closed == {"they are sealed by another key than FRAUDOPS_AUDIT__KEY": 1, "only a keyed hash of them is kept": 1}
    assert (found.rows, len(found.probability)) == (4, 4)


async def test_a_window_without_rows_gives_empty_columns(engine: AsyncEngine) -> None:
    found = await recent(engine, NOON, NOON + HOUR, 10, ["V1", "Amount"])
    assert found.rows == 0
    assert found.features.shape == (0, 2)
    assert found.id.shape == found.prediction.shape == (0,)


async def test_a_large_window_is_sampled_evenly_and_the_same_each_time(engine: AsyncEngine, database: str) -> None:
    await store(database, [prediction(NOON + timedelta(seconds=number), features={"V1": float(number)}) for number in range(3_000)])
    first, second = [await recent(engine, NOON, NOON + HOUR, 600, ["V1"]) for _ in range(2)]
    assert first.rows == 3_000
    assert 450 < len(first.id) < 750
    assert first.id.tolist() == second.id.tolist()
    assert 1_300 < first.features.mean() < 1_700


async def test_a_window_too_large_to_scan_is_sampled_by_pages_evenly_and_the_same_each_time(
    engine: AsyncEngine, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = {f"V{number}": 0.5 for number in range(28)}
    await store(database, [prediction(NOON + timedelta(seconds=number), features=wide | {"T": float(number)}) for number in range(3_000)])
    with psycopg.connect(database) as connection:
        connection.execute("ANALYZE predictions")
    exact = await recent(engine, NOON, NOON + HOUR, 600, ["T"])
    monkeypatch.setattr("fraudops.audit.queries.SCANNED_ROWS", 1_000)
    first, second = [await recent(engine, NOON, NOON + HOUR, 600, ["T"], model_digest="d" * 64) for _ in range(2)]
    assert (exact.estimated, exact.rows, first.estimated) == (False, 3_000, True)
    assert 400 < len(first.id) < 800
    assert 2_000 < first.rows < 4_000
    assert first.id.tolist() == second.id.tolist() == sorted(first.id)
    assert 1_200 < first.features.mean() < 1_800
    assert (await recent(engine, NOON, NOON + HOUR, 600, ["T"], model_digest="e" * 64)).rows == 0


async def test_a_repeated_transaction_is_one_decision_the_earliest(engine: AsyncEngine, database: str) -> None:
    await store(
        database,
        [
            prediction(NOON + timedelta(minutes=2), transaction_id="t-1", prediction=0, fraud_probability=0.1),
            prediction(NOON + timedelta(minutes=1), transaction_id="t-1", prediction=1, fraud_probability=0.9),
            prediction(NOON + timedelta(minutes=3), transaction_id="t-2", prediction=0, fraud_probability=0.3),
            prediction(NOON + timedelta(minutes=4)),
            prediction(NOON + timedelta(minutes=5)),
        ],
    )
    total, versions = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert (total.answers, total.decisions, total.frauds) == (5, 4, 1)
    assert total.mean_probability == pytest.approx((0.9 + 0.3 + 0.125 + 0.125) / 4)
    assert total.fraud_rate == 0.25
    assert [version.model_version for version in versions] == ["3"]


async def test_of_the_labels_of_a_decision_the_one_labelled_last_counts(engine: AsyncEngine, database: str) -> None:
    caught, missed = prediction(NOON, prediction=1, transaction_id="t-1"), prediction(NOON, prediction=0)
    again = prediction(NOON + HOUR, prediction=0, transaction_id="t-1")
    await store(
        database,
        [
            caught,
            missed,
            again,
            new_label(0, NOON + 3 * HOUR, "first look", transaction_id="t-1"),
            # It names the repeat: the decision is the first answer all the same.
            new_label(1, NOON + 5 * HOUR, "chargeback", prediction_id=again.id),
            new_label(0, NOON + 4 * HOUR, "a late word of an earlier look", prediction_id=caught.id),
            new_label(1, NOON + 3 * HOUR, "chargeback", prediction_id=missed.id, transaction_id="unknown"),
            new_label(1, NOON, "of something never answered", transaction_id="t-9"),
        ],
    )
    total, _ = await activity(engine, NOON, NOON + 2 * HOUR, "credit-fraud")
    assert (total.labelled, total.true_positives, total.false_negatives, total.false_positives, total.true_negatives) == (2, 1, 1, 0, 0)
    assert (total.precision, total.recall, total.label_coverage) == (1.0, 0.5, 1.0)
    assert total.false_positive_rate is None


async def test_activity_is_told_by_version_and_of_the_asked_model_and_window_only(engine: AsyncEngine, database: str) -> None:
    versions = [("3", "d" * 64, 1.0), ("4", "e" * 64, 3.0), ("4", "e" * 64, 5.0)]
    await store(
        database,
        [
            *(
                prediction(NOON + timedelta(minutes=number), model_version=name, model_digest=digest, latency_ms=latency)
                for number, (name, digest, latency) in enumerate(versions)
            ),
            prediction(NOON, model_name="other"),
            prediction(NOON - HOUR),
            prediction(NOON + HOUR),
        ],
    )
    total, parts = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert (total.answers, total.latency_p50_ms, total.model_version) == (3, 3.0, None)
    assert [(part.model_version, part.answers, part.latency_p50_ms) for part in parts] == [("3", 1, 1.0), ("4", 2, 4.0)]
    assert (total.first, total.last) == (NOON, NOON + timedelta(minutes=2))


async def test_activity_of_an_empty_window_is_zero_and_none(engine: AsyncEngine) -> None:
    total, versions = await activity(engine, NOON, NOON + HOUR, "credit-fraud")
    assert versions == []
    assert (total.answers, total.decisions, total.labelled) == (0, 0, 0)
    assert (total.fraud_rate, total.mean_probability, total.latency_p99_ms, total.precision, total.f1) == (None,) * 5


def test_a_client_that_lost_its_state_when_the_server_went_is_a_store_that_is_down() -> None:
    """asyncpg raises it, rarely, when a connection ends within a COPY; it is no PostgresError."""
    with pytest.raises(StoreDownError), translated():
        raise asyncpg.InternalClientError("cannot switch to state 15; another operation (2) is in progress")
