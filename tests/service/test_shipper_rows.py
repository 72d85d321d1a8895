"""Shipping of rows that are sent again, refused, damaged or old, and the metrics of it."""

import base64
import json
import signal
from datetime import UTC, datetime, timedelta

import psycopg

from fraudops.audit.records import encode, new_label
from fraudops.spool import SpoolWriter
from fraudops.spool.frames import encode_frame
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import list_segments
from fraudops.state import State
from jobs.reports.monitor import spool_note
from services.inference.http.metrics_page import PodCollector
from tests.support.audit_records import fill, prediction
from tests.support.processes import free_port
from tests.support.shippers import (
    CARD,
    RunningShipper,
    Start,
    dead_letters,
    expect,
    expect_empty,
    ids,
)
from tests.support.waiting import eventually


def test_a_replayed_segment_changes_nothing(
    state: State, start_shipper: Start, database: str
) -> None:
    sent = fill(state.spool, [prediction() for _ in range(20)])
    [segment] = list_segments(state.spool)
    copy = (state.spool / segment.name).read_bytes()
    shipper = start_shipper(database)
    expect_empty(state)
    (state.spool / segment.name).write_bytes(copy)

    def replayed() -> None:
        assert shipper.status.replayed == 20

    eventually(replayed)
    expect_empty(state)
    assert ids(database) == sorted(sent)


def test_rows_that_postgresql_refuses_become_dead_letters_and_block_nothing(
    state: State, start_shipper: Start, database: str
) -> None:
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
    writer = SpoolWriter(state.spool, "worker-1", SpoolOptions())
    writer.append_many([*(encode(record) for record in mixed), b"no record at all"])
    writer.close()
    shipper = start_shipper(database)
    expect(database, [record.id for record in good])
    expect_empty(state)
    kept = dead_letters(state)
    assert sorted(base64.b64decode(line["payload"]) for line in kept) == sorted(
        [*(encode(record) for record in poison), b"no record at all"]
    )
    assert all(line["reason"] for line in kept)
    assert ids(database, "labels") == []

    def counted() -> None:
        assert shipper.status.set_aside == len(poison) + 1

    eventually(counted)
    log = shipper.log.read_text()
    assert "records became dead letters" in log
    assert CARD not in log


def test_the_services_metrics_show_the_spool_and_its_shipper(
    state: State, start_shipper: Start, database: str
) -> None:
    """The service renders the status file that the shipper writes."""
    fill(state.spool, [*(prediction() for _ in range(20)), prediction(fraud_probability=1.5)])
    copies = {path: path.read_bytes() for path in state.spool.glob("*.seg")}
    before = metrics(state)
    assert before["fraudops_spool_bytes"] > 0
    assert "fraudops_spool_rows" not in before

    away = start_shipper(f"postgresql://u:p@127.0.0.1:{free_port()}/d")

    def waits() -> None:
        now = metrics(state)
        assert (
            now["fraudops_spool_rows"],
            now["fraudops_shipper_waiting"],
            now["fraudops_shipper_shipped_total"],
        ) == (21, 1, 0)
        assert now["fraudops_spool_unshipped_bytes"] > 0
        assert 0 < now["fraudops_spool_oldest_seconds"] < 60
        assert now["fraudops_shipper_silent_seconds"] < 60

    eventually(waits)
    away.end()
    shipper = start_shipper(database)
    expect_empty(state)
    for path, content in copies.items():
        path.write_bytes(content)

    def shipped() -> None:
        now = metrics(state)
        counts = [
            now[f"fraudops_shipper_{name}_total"]
            for name in ("shipped", "replayed", "set_aside", "missing")
        ]
        assert counts == [40, 20, 2, 0]
        assert (
            now["fraudops_spool_rows"],
            now["fraudops_spool_unshipped_bytes"],
            now["fraudops_shipper_waiting"],
            now["fraudops_spool_oldest_seconds"],
        ) == (0, 0, 0, 0)
        assert now["fraudops_spool_aside_bytes"] > 0

    eventually(shipped)
    shipper.end(signal.SIGKILL)

    def silent() -> None:
        assert metrics(state)["fraudops_shipper_silent_seconds"] > 1.5

    eventually(silent)


def test_status_metric_and_log_name_the_constraint(
    state: State, start_shipper: Start, database: str
) -> None:
    sent = fill(state.spool, [prediction(entity_key=CARD) for _ in range(3)])
    shipper = start_shipper(database)
    expect(database, sent)
    with psycopg.connect(database) as connection:
        connection.execute(
            "ALTER TABLE predictions ADD CONSTRAINT no_v3 CHECK (model_version <> '3') NOT VALID"
        )
    sent += fill(state.spool, [prediction(entity_key=CARD) for _ in range(200)])
    fault = "SQLSTATE 23514, constraint no_v3 of table predictions"
    message = f"PostgreSQL refuses every row: {fault}: correct it; everything is shipped then"

    def refused() -> None:
        status = shipper.status
        assert (status.phase, status.fault, status.last_error) == ("refused", fault, message)
        now = metrics(state)
        assert (now["fraudops_shipper_refused"], now["fraudops_shipper_waiting"]) == (1, 1)
        assert now["fraudops_spool_rows"] == 200
        assert now["fraudops_spool_aside_bytes"] == 0
        assert now["fraudops_spool_aside_limit_bytes"] == SpoolOptions.max_bytes // 8
        assert message in spool_note(status, datetime.now(UTC))

    eventually(refused)
    assert shipper.end() == 0
    assert dead_letters(state) == []
    log = shipper.log.read_text()
    assert log.count(message) == 1
    assert CARD not in log
    assert "DETAIL" not in log
    again = start_shipper(database)
    eventually(lambda: _refuses(again))
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE predictions DROP CONSTRAINT no_v3")
    expect(database, sent)
    expect_empty(state)

    def ships() -> None:
        now, status = metrics(state), again.status
        assert (now["fraudops_shipper_refused"], now["fraudops_shipper_waiting"]) == (0, 0)
        assert (status.phase, status.fault, status.last_error) == ("shipping", None, None)

    eventually(ships)
    assert dead_letters(state) == []


def _refuses(shipper: RunningShipper) -> None:
    assert shipper.status.phase == "refused"


def test_dead_letters_at_their_limit_stop_shipping_until_they_are_removed(
    state: State, start_shipper: Start, database: str
) -> None:
    fat = {"features": {"V1": 0.5, "text": "x" * 4_000}}
    # Every second row is good: a series of bad ones would be a fault of the database.
    good = [prediction() for _ in range(150)]
    fill(
        state.spool,
        [record for one in good for record in (one, prediction(prediction=7, **fat))],
    )
    shipper = start_shipper(database, FRAUDOPS_AUDIT__SPOOL_MAX_BYTES=str(4 << 20))

    def full() -> None:
        status = shipper.status
        assert status.phase == "waiting"
        assert "the dead letters are full" in (status.last_error or "")
        now = metrics(state)
        assert 0 < now["fraudops_spool_aside_bytes"] <= now["fraudops_spool_aside_limit_bytes"]
        assert now["fraudops_spool_rows"] > 0

    eventually(full)
    assert 0 < len(dead_letters(state)) < 150
    assert good[0].id in ids(database)
    saved = state.root / "saved"
    saved.mkdir()

    def shipped() -> None:
        # Moved, not removed: the shipper may be writing to the file.
        for path in (state.spool / "aside").glob("*.jsonl"):
            path.rename(saved / f"{len(list(saved.iterdir()))}.jsonl")
        assert ids(database) == sorted(record.id for record in good)
        lines = [line for path in saved.iterdir() for line in path.read_text().splitlines()]
        assert len({json.loads(line)["payload"] for line in lines}) == 150

    eventually(shipped)


def metrics(state: State) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in PodCollector(lambda: 1, state.spool).collect()
        for sample in family.samples
    }


def test_a_damaged_segment_is_shipped_around_its_damage(
    state: State, start_shipper: Start, database: str
) -> None:
    records = [prediction() for _ in range(10)]
    frames = [
        bytearray(encode_frame(number, encode(record))) for number, record in enumerate(records)
    ]
    frames[4][40] ^= 1
    state.spool.mkdir(parents=True)
    (state.spool / f"worker-1.{'0' * 32}.00000001.seg").write_bytes(b"".join(frames)[:-3])
    shipper = start_shipper(database)
    expect(database, [record.id for number, record in enumerate(records) if number not in (4, 9)])
    expect_empty(state)
    assert [base64.b64decode(line["payload"]) for line in dead_letters(state)] == [
        frames[4],
        frames[9][:-3],
    ]

    def counted() -> None:
        assert (shipper.status.missing, shipper.status.set_aside) == (1, 2)

    eventually(counted)


def test_the_partition_of_any_day_is_made_when_it_is_needed(
    state: State, start_shipper: Start, database: str
) -> None:
    """Ship rows of days that no job has made: a clock was wrong, or an old spool was found."""
    days = [
        datetime(2019, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2020, 1, 1, tzinfo=UTC),
        datetime.now(UTC) + timedelta(days=40),
    ]
    sent = fill(state.spool, [prediction(day) for day in days])
    start_shipper(database, FRAUDOPS_RETENTION__DAYS="36500")
    expect(database, sent)


def test_rows_of_a_day_that_retention_has_detached_become_dead_letters(
    state: State, start_shipper: Start, database: str
) -> None:
    day = datetime(2020, 1, 1, tzinfo=UTC)
    shipper = start_shipper(database, FRAUDOPS_RETENTION__DAYS="36500")
    first = fill(state.spool, [prediction(day)])
    expect(database, first)
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE predictions DETACH PARTITION predictions_20200101")
    fill(state.spool, [prediction(day) for _ in range(30)])
    fresh = fill(state.spool, [prediction()])
    expect(database, fresh)

    def counted() -> None:
        assert shipper.status.set_aside == 30

    eventually(counted)
    assert {line["reason"] for line in dead_letters(state)} == {
        "the partition predictions_20200101 was taken out of the table: older than what is retained"
    }


def test_rows_older_than_the_retained_days_become_dead_letters_and_make_no_partition(
    state: State, start_shipper: Start, database: str
) -> None:
    """A new partition of an old day would be dropped with its rows by the next retention."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    fill(
        state.spool,
        [
            prediction(today - timedelta(milliseconds=1, days=3)),
            prediction(today - timedelta(days=300)),
        ],
    )
    kept = fill(state.spool, [prediction(today - timedelta(days=3)), prediction()])
    start_shipper(database, FRAUDOPS_RETENTION__DAYS="3")
    expect(database, kept)
    expect_empty(state)
    assert [line["reason"] for line in dead_letters(state)] == [
        "older than the 3 days that are retained"
    ] * 2
    with psycopg.connect(database) as connection:
        days = {
            row[0]
            for row in connection.execute(
                "SELECT tablename FROM pg_tables WHERE tablename ~ '^predictions_'"
            )
        }
    assert not any(day < f"predictions_{today - timedelta(days=3):%Y%m%d}" for day in days)
