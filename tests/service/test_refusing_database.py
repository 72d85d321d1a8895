"""Sink: a fault of the database sets nothing aside, and bad rows stop nothing."""

import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from fraudops.audit.records import encode, new_label
from fraudops.errors import StoreDownError
from services.shipper.circuit_breaker import LONGEST_SERIES, DatabaseRefusesError
from services.shipper.sink import Sink
from tests.support.audit_records import group, prediction
from tests.support.shippers import ids

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
NO_V3 = "CHECK (model_version <> '3') NOT VALID"
REFUSES_V3 = "SQLSTATE 23514, constraint no_v3 of table predictions"


def alter(url: str, *statements: str) -> None:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


def constrain(url: str, check: str = NO_V3) -> None:
    alter(url, f"ALTER TABLE predictions ADD CONSTRAINT no_v3 {check}")


def release(url: str) -> None:
    alter(url, "ALTER TABLE predictions DROP CONSTRAINT no_v3")


@contextlib.asynccontextmanager
async def open_sink(url: str) -> AsyncIterator[Sink]:
    """Yield a sink that has shipped one group, and close it."""
    sink = Sink(url)
    try:
        await sink.ship(group(3))
        yield sink
    finally:
        await sink.close()


@pytest.mark.parametrize("rows", [1, 7, 20, 300])
async def test_a_constraint_that_every_row_violates_sets_nothing_aside(
    database: str, rows: int
) -> None:
    async with open_sink(database) as sink:
        constrain(database)
        waiting = group(rows)
        for _ in range(3):
            with pytest.raises(DatabaseRefusesError, match=REFUSES_V3):
                await sink.ship(waiting)
        release(database)
        outcome = await sink.ship(waiting)
    assert (outcome.new, outcome.rejected) == (rows, [])
    assert len(ids(database)) == 3 + rows


@pytest.mark.parametrize("rows", [1, 20])
async def test_a_new_process_asks_the_table_for_a_row_that_it_has_accepted(
    database: str, rows: int
) -> None:
    async with open_sink(database):
        constrain(database)
    sink = Sink(database)
    waiting = group(rows)
    with pytest.raises(DatabaseRefusesError):
        await sink.ship(waiting)
    release(database)
    assert (await sink.ship(waiting)).new == rows
    await sink.close()


async def test_the_search_for_an_accepted_row_locks_no_older_day(database: str) -> None:
    sink = Sink(database)
    await sink.ship(group(1))
    await sink.ship([encode(prediction(datetime.now(UTC) - timedelta(days=5)))])
    await sink.close()
    old = sql.Identifier(f"predictions_{datetime.now(UTC) - timedelta(days=5):%Y%m%d}")
    with psycopg.connect(database) as other:
        other.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(old))
        outcome = await sink.ship(group(1, prediction=7))
    await sink.close()
    assert len(outcome.rejected) == 1


async def test_a_bad_row_in_an_empty_table_is_rejected_and_a_bad_group_is_not(
    database: str,
) -> None:
    constrain(database)
    sink = Sink(database)
    assert len((await sink.ship(group(1))).rejected) == 1
    with pytest.raises(DatabaseRefusesError):
        await sink.ship(group(8))
    await sink.close()


async def test_rows_of_one_version_open_the_breaker_after_a_group(database: str) -> None:
    """The copied row is of another version, and the table accepts it."""
    async with open_sink(database) as sink:
        constrain(database, "CHECK (model_version <> '4')")
        waiting = group(20, model_version="4")
        for _ in range(2):
            with pytest.raises(DatabaseRefusesError, match="constraint no_v3"):
                await sink.ship(waiting)
        release(database)
        assert (await sink.ship(waiting)).new == 20


@pytest.mark.parametrize("new_process", [False, True])
async def test_a_version_that_was_accepted_opens_the_breaker_when_its_rows_are_refused(
    database: str, new_process: bool
) -> None:
    """A copy of an accepted row of the version is refused too."""
    async with open_sink(database) as sink:
        await sink.ship(group(1, model_version="4"))
        if not new_process:
            await sink.ship(group(1))
        constrain(database, "CHECK (model_version <> '4') NOT VALID")
        shipping = Sink(database) if new_process else sink
        waiting = group(20, model_version="4")
        for _ in range(2):
            with pytest.raises(DatabaseRefusesError, match="constraint no_v3"):
                await shipping.ship(waiting)
        release(database)
        assert (await shipping.ship(waiting)).new == 20
        await shipping.close()


@pytest.mark.parametrize("new_process", [False, True])
@pytest.mark.parametrize("rows", [1, 9, 2 * LONGEST_SERIES + 20])
async def test_bad_rows_of_one_client_are_rejected_alone_however_many_they_are(
    database: str, rows: int, new_process: bool
) -> None:
    """A copy of an accepted row of the same version passes, so that the rows are bad."""
    async with open_sink(database) as sink:
        constrain(database, "CHECK (client <> 'shop')")
        shipping = Sink(database) if new_process else sink
        bad = group(rows, client="shop")
        outcome = await shipping.ship(bad)
        assert sorted(entry.payload for entry in outcome.rejected) == sorted(bad)
        assert (await shipping.ship(group(2))).new == 2
        await shipping.close()


async def test_bad_labels_of_one_client_do_not_stop_predictions(database: str) -> None:
    def label(number: int, source: str) -> bytes:
        return encode(new_label(1, NOON, source, transaction_id=f"t-{number}"))

    async with open_sink(database) as sink:
        await sink.ship([label(0, "analyst")])
        alter(database, "ALTER TABLE labels ADD CONSTRAINT known CHECK (source = 'analyst')")
        bad = [label(number, "other") for number in range(20)]
        outcome = await sink.ship([*group(5), *bad])
        assert (outcome.new, [entry.payload for entry in outcome.rejected]) == (5, bad)
        # One by one, too: the series of refused rows ends with a copy that passes.
        for number in range(LONGEST_SERIES + 5):
            outcome = await sink.ship([label(100 + number, "other")])
            assert len(outcome.rejected) == 1
        assert (await sink.ship([*group(5), label(1, "analyst")])).new == 6


async def test_rows_of_one_version_in_small_groups_open_the_breaker_after_a_series(
    database: str,
) -> None:
    async with open_sink(database) as sink:
        constrain(database, "CHECK (model_version <> '4')")
        for _ in range(LONGEST_SERIES - 1):
            assert len((await sink.ship(group(1, model_version="4"))).rejected) == 1
        for _ in range(2):
            with pytest.raises(DatabaseRefusesError):
                await sink.ship(group(1, model_version="4"))
        assert (await sink.ship(group(1))).new == 1


async def test_a_fault_that_begins_within_a_group_sets_nothing_aside(database: str) -> None:
    """The sample may find rows of the old version. The series of refused rows decides then."""
    async with open_sink(database) as sink:
        constrain(database, "CHECK (model_version <> '4')")
        waiting = [*group(LONGEST_SERIES), *group(LONGEST_SERIES, model_version="4")]
        for _ in range(2):
            with pytest.raises(DatabaseRefusesError, match="constraint no_v3"):
                await sink.ship(waiting)
        release(database)
        outcome = await sink.ship(waiting)
    assert outcome.rejected == []
    assert len(ids(database)) == 3 + 2 * LONGEST_SERIES


async def test_a_constraint_that_some_rows_violate_rejects_these_alone(database: str) -> None:
    """The copied row violates it too. A row of the group shows that others do not."""
    sink = Sink(database)
    await sink.ship(group(3, latency_ms=250.0))
    constrain(database, "CHECK (latency_ms < 200) NOT VALID")
    bad = group(1, latency_ms=250.0)
    with pytest.raises(DatabaseRefusesError):
        await sink.ship(bad)
    for _ in range(100):
        with contextlib.suppress(DatabaseRefusesError):
            outcome = await sink.ship([*bad, *group(5)])
            break
    await sink.close()
    assert (outcome.rows, [entry.payload for entry in outcome.rejected]) == (5, bad)


async def test_a_unique_index_of_an_operator_rejects_rows_alone(database: str) -> None:
    async with open_sink(database) as sink:
        await sink.ship(group(1, transaction_id="t-1", client="shop"))
        day = f"predictions_{datetime.now(UTC):%Y%m%d}"
        alter(database, f"CREATE UNIQUE INDEX one_answer ON {day} (transaction_id)")
        again = group(9, transaction_id="t-1")
        outcome = await sink.ship([*group(2), *again])
        assert (outcome.new, len(outcome.rejected)) == (2, 9)
        outcome = await sink.ship(again)
        assert (outcome.new, len(outcome.rejected)) == (0, 9)
        # The index refuses the copy of the last accepted row, which decides nothing.
        await sink.ship(group(1, transaction_id="t-2"))
        assert len((await sink.ship(group(1, prediction=7))).rejected) == 1


@pytest.mark.parametrize(
    "bad", [{"prediction": 1 << 40}, {"id": "018f0000-0000-7000-8000-0000000000 0"}]
)
async def test_rows_that_cannot_be_encoded_never_open_the_breaker(
    database: str, bad: dict[str, Any]
) -> None:
    async with open_sink(database) as sink:
        for _ in range(2):
            assert len((await sink.ship(group(20, **bad))).rejected) == 20
        assert (await sink.ship(group(5))).new == 5
        for _ in range(2):
            assert len((await sink.ship(group(20, **bad))).rejected) == 20


async def test_a_column_that_every_row_lacks_is_named(database: str) -> None:
    async with open_sink(database) as sink:
        alter(
            database,
            "ALTER TABLE predictions ADD COLUMN region text NOT NULL DEFAULT 'here'",
            "ALTER TABLE predictions ALTER COLUMN region DROP DEFAULT",
            f"ALTER TABLE predictions_{datetime.now(UTC):%Y%m%d} ALTER region DROP DEFAULT",
        )
        waiting = group(12)
        with pytest.raises(DatabaseRefusesError, match=r"23502, column region of table predic"):
            await sink.ship(waiting)
        alter(database, "ALTER TABLE predictions ALTER COLUMN region DROP NOT NULL")
        assert (await sink.ship(waiting)).new == 12


async def test_a_constraint_on_labels_keeps_labels_and_names_their_table(database: str) -> None:
    def label(number: int) -> bytes:
        return encode(new_label(1, NOON, "analyst", transaction_id=f"t-{number}"))

    async with open_sink(database) as sink:
        await sink.ship([label(0)])
        alter(database, "ALTER TABLE labels ADD CONSTRAINT none CHECK (label = 0) NOT VALID")
        waiting = [*group(20), label(1), label(2)]
        for _ in range(2):
            with pytest.raises(DatabaseRefusesError, match=r"constraint none of table labels"):
                await sink.ship(waiting)
        assert (await sink.ship(group(5))).new == 5
        alter(database, "ALTER TABLE labels DROP CONSTRAINT none")
        assert (await sink.ship(waiting)).new == 22


async def test_a_trigger_is_obeyed_as_a_constraint_or_an_outage_by_its_sqlstate(
    database: str,
) -> None:
    function = (
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{}'; END $$"
    )
    async with open_sink(database) as sink:
        alter(
            database,
            function.format("23514"),
            "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON labels DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        alter(database, function.format("23000"))
        labels = [
            encode(new_label(1, NOON, "analyst", transaction_id=f"t-{number}"))
            for number in range(9)
        ]
        with pytest.raises(DatabaseRefusesError, match="SQLSTATE 23000, table labels"):
            await sink.ship(labels)
        alter(database, function.format("P0001"))
        with pytest.raises(StoreDownError, match="SQLSTATE P0001") as refused:
            await sink.ship(labels)
        assert not isinstance(refused.value, DatabaseRefusesError)
        alter(database, "DROP TRIGGER refuse ON labels")
        assert (await sink.ship(labels)).new == 9


@pytest.mark.parametrize(
    ("other", "value"), [("integer", "1"), ("uuid", "gen_random_uuid()"), ("date", "now()")]
)
async def test_a_column_of_another_type_rejects_nothing(
    database: str, other: str, value: str
) -> None:
    """asyncpg encodes a COPY by the column's type, so that its encoder refuses every row."""
    async with open_sink(database) as sink:
        await sink.ship(group(2))
        alter(database, f"ALTER TABLE predictions ALTER pod TYPE {other} USING {value}")
        waiting = group(20)
        with pytest.raises(StoreDownError, match="42804"):
            await sink.ship(waiting)
        alter(database, "ALTER TABLE predictions ALTER pod TYPE text")
        assert (await sink.ship(waiting)).new == 20


async def test_the_copy_leaves_no_row(database: str) -> None:
    async with open_sink(database) as sink:
        bad = group(1, prediction=7)
        before = ids(database)
        for _ in range(3):
            assert [entry.payload for entry in (await sink.ship(bad)).rejected] == bad
        assert ids(database) == before
        assert sink.connected


async def test_an_open_breaker_does_not_keep_what_is_no_row_from_being_rejected(
    database: str,
) -> None:
    async with open_sink(database) as sink:
        constrain(database)
        with pytest.raises(DatabaseRefusesError):
            await sink.ship(group(9))
        late = encode(prediction(datetime(9999, 12, 31, tzinfo=UTC)))
        assert len((await sink.ship([b"no record", late])).rejected) == 2
        with pytest.raises(DatabaseRefusesError):
            await sink.ship(group(1))
