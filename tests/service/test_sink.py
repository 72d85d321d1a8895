"""Sink: rows that are in the table already, rows that it must reject, and every column.

Rows enter the table by a COPY or by an INSERT that skips what is there; both must behave alike.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from msgspec.structs import asdict
from psycopg import sql
from psycopg.rows import dict_row

from fraudops.audit.records import encode, new_label
from fraudops.ids import timestamp_ms
from services.shipper.sink import Sink
from tests.support.audit_records import group, prediction, refusals
from tests.support.shippers import ids

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)


async def test_rows_that_are_in_the_table_already_change_nothing_on_an_old_or_a_new_connection(
    database: str,
) -> None:
    first, second, third, fourth = group(5), group(7), group(3), group(4)
    sink = Sink(database)
    shipped = [
        await sink.ship(rows) for rows in (first, second, second + third, third, fourth, fourth[:1])
    ]
    sink.give_up()
    shipped.append(await sink.ship(first + second))
    await sink.close()
    assert [(outcome.rows, outcome.new) for outcome in shipped] == [
        (5, 5),
        (7, 7),
        (10, 3),
        (3, 0),
        (4, 4),
        (1, 0),
        (12, 0),
    ]
    assert not any(outcome.rejected for outcome in shipped)
    assert len(ids(database)) == 5 + 7 + 3 + 4


async def test_a_row_twice_in_one_group_and_a_repeated_label_are_one_row_each(
    database: str,
) -> None:
    label = encode(new_label(1, datetime(2026, 1, 1, tzinfo=UTC), "analyst", transaction_id="t-1"))
    sink = Sink(database)
    await sink.ship(group(2))
    twice = group(3)
    outcomes = [
        await sink.ship([*twice, *twice, label, label]),
        await sink.ship([*group(2), label]),
    ]
    await sink.close()
    assert [(outcome.rows, outcome.new, outcome.rejected) for outcome in outcomes] == [
        (8, 4, []),
        (3, 2, []),
    ]
    assert len(ids(database, "labels")) == 1


async def test_a_row_that_postgresql_refuses_is_rejected_alone_on_every_path(
    database: str,
) -> None:
    sink = Sink(database)
    for _ in range(3):
        good = group(6)
        outcome = await sink.ship([*good[:4], encode(prediction(prediction=7)), *good[4:]])
        assert (outcome.rows, outcome.new, len(outcome.rejected)) == (6, 6, 1)
    await sink.close()


async def test_every_column_is_read_back_as_it_was_answered(database: str) -> None:
    """Write and read plain and sealed features, non-ASCII texts, and present and absent values."""
    bare = prediction()
    rich = prediction(
        features={'quote " and \\': 1e-300, "größe": -0.0, "V1": 12345.678901234567},
        fraud_probability=0.1 + 0.2,
        prediction=1,
        model_version="12",
        pod="pöd",
        challenger_version="11",
        challenger_probability=5e-324,
        request_id="r",
        transaction_id="t €",
        entity_key="",
        client="shop",
    )
    sealed = prediction(features=bytes(range(256)), challenger_version="11")
    sink = Sink(database)
    for records in ([bare], [rich], [sealed]):
        assert (await sink.ship([encode(record) for record in records])).new == 1
    await sink.close()
    with psycopg.connect(database, row_factory=dict_row) as connection:
        rows = {str(row.pop("id")): row for row in connection.execute("SELECT * FROM predictions")}
    for record in (bare, rich, sealed):
        expected = asdict(record)
        identifier, features = expected.pop("id"), expected.pop("features")
        row = rows[identifier]
        plain, kept, moment = row.pop("features"), row.pop("features_sealed"), row.pop("timestamp")
        assert row == expected
        assert (plain, kept) == (
            (None, features) if isinstance(features, bytes) else (features, None)
        )
        assert int(moment.timestamp() * 1000 + 0.5) == timestamp_ms(identifier)


async def test_labels_and_counts_of_refusals_are_read_back_as_they_were_written(
    database: str,
) -> None:
    label = new_label(1, NOON, "analyst", transaction_id="t-1", client="shop", received_at=NOON)
    counts = [refusals(NOON), refusals(NOON, model_version=None, field="(body)", rows=1)]
    sink = Sink(database)
    group = [encode(prediction()), *map(encode, [label, *counts])]
    for new in (4, 0):
        outcome = await sink.ship(group)
        assert (outcome.rows, outcome.new, outcome.rejected) == (4, new, [])
    await sink.close()
    with psycopg.connect(database, row_factory=dict_row) as connection:
        (kept,) = connection.execute("SELECT * FROM labels")
        rows = {str(row["id"]): row for row in connection.execute("SELECT * FROM refusals")}
    assert {**kept, "id": str(kept["id"])} == asdict(label)
    for count in counts:
        assert rows[count.id] == {**asdict(count), "id": UUID(count.id), "at": NOON}


async def test_a_count_of_no_rows_is_rejected_alone(database: str) -> None:
    sink = Sink(database)
    outcome = await sink.ship([encode(refusals()), encode(refusals(rows=0)), *group(1)])
    await sink.close()
    assert (outcome.new, len(outcome.rejected)) == (2, 1)
    assert "23514" in outcome.rejected[0].reason


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "018f0000-0000-7000-8000-00000000000"},
        {"id": "018f0000-0000-7000-8000-0000000000 0"},
        {"prediction": 1 << 40},
        {"id": "x" * 14 + "7" + "x" * 21},
        {"features": {"V1": msgspec.msgpack.Ext(1, b"x")}},
    ],
)
async def test_a_value_that_fits_no_column_is_rejected_and_its_neighbours_are_not(
    database: str, changes: dict[str, Any]
) -> None:
    """Reject it on a new connection, and in a COPY directly into the table."""
    sink = Sink(database)
    bad = encode(prediction(**changes))
    for direct in (False, True):
        outcome = await sink.ship([*group(2), bad, *group(2)])
        assert (outcome.new, [entry.payload for entry in outcome.rejected]) == (4, [bad]), direct
        assert (await sink.ship(group(2))).new == 2
    await sink.close()


async def test_a_row_from_the_far_future_makes_no_partition(database: str) -> None:
    late = prediction(datetime(9999, 12, 31, tzinfo=UTC))
    sink = Sink(database)
    outcome = await sink.ship([*group(2), encode(late)])
    await sink.close()
    assert (outcome.new, [entry.reason for entry in outcome.rejected]) == (
        2,
        ["from the future: was the clock wrong?"],
    )


async def test_a_new_connection_locks_no_partition(database: str) -> None:
    """With 400 days, the locks of a few new connections would fill the server's lock table."""
    sink = Sink(database)
    await sink.ship(group(1))
    await sink.close()
    with psycopg.connect(database) as other:
        (name,) = other.execute(
            "SELECT inhrelid::regclass::text FROM pg_inherits "
            "WHERE inhparent = 'predictions'::regclass LIMIT 1"
        ).fetchone() or ("",)
        other.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(sql.Identifier(name))
        )
        async with asyncio.timeout(30):
            await sink.open()
    await sink.close()
