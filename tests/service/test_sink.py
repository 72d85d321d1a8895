"""What the sink does with predictions that may be in PostgreSQL already: nothing twice, nothing refused, whichever way they go in."""

from datetime import UTC, datetime

from fraudops.audit.records import encode, new_label
from services.shipper.sink import Sink
from tests.audit_records import prediction
from tests.shippers import ids


def group(rows: int) -> list[bytes]:
    return [encode(prediction()) for _ in range(rows)]


async def test_rows_that_are_there_already_change_nothing_on_an_old_connection_or_a_new_one(database: str) -> None:
    first, second, third, fourth = group(5), group(7), group(3), group(4)
    sink = Sink(database)
    shipped = [await sink.ship(rows) for rows in (first, second, second + third, third, fourth, fourth[:1])]
    sink.give_up()
    shipped.append(await sink.ship(first + second))
    await sink.close()
    assert [(outcome.rows, outcome.new) for outcome in shipped] == [(5, 5), (7, 7), (10, 3), (3, 0), (4, 4), (1, 0), (12, 0)]
    assert not any(outcome.rejected for outcome in shipped)
    assert len(ids(database)) == 5 + 7 + 3 + 4


async def test_one_row_twice_in_one_group_and_repeated_labels_are_one_row_each(database: str) -> None:
    label = encode(new_label(1, datetime(2026, 1, 1, tzinfo=UTC), "analyst", transaction_id="t-1"))
    sink = Sink(database)
    await sink.ship(group(2))
    twice = group(3)
    outcomes = [await sink.ship([*twice, *twice, label, label]), await sink.ship([*group(2), label])]
    await sink.close()
    assert [(outcome.rows, outcome.new, outcome.rejected) for outcome in outcomes] == [(8, 4, []), (3, 2, [])]
    assert len(ids(database, "labels")) == 1


async def test_a_row_that_postgresql_refuses_is_rejected_alone_whichever_way_it_goes(database: str) -> None:
    sink = Sink(database)
    for _ in range(3):
        good = group(6)
        outcome = await sink.ship([*good[:4], encode(prediction(prediction=7)), *good[4:]])
        assert (outcome.rows, outcome.new, len(outcome.rejected)) == (6, 6, 1)
    await sink.close()
