"""`fraudops retention` on a real PostgreSQL: dropped days, exports, locks and killed runs."""

import asyncio
import errno
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pyarrow.parquet
import pytest
from psycopg import sql

from fraudops.audit import label_retention, parquet, retention
from fraudops.audit.connection import connect
from fraudops.audit.partitions import RETENTION_LOCK, ensure_partition, partition_name
from fraudops.audit.records import LabelRecord, Record, encode, new_label
from fraudops.errors import StoreDownError
from fraudops.ids import uuid7
from jobs.retention import command
from services.shipper.sink import Sink
from tests.support.audit_records import id_at, refusals
from tests.support.commands import Caller, CommandResult

TODAY = datetime.now(UTC).date()
OLD, OLDEST, KEPT = (TODAY - timedelta(days=days) for days in (401, 405, 400))
ROW = """
INSERT INTO predictions (id, "timestamp", features, fraud_probability, prediction, threshold,
                         model_name, model_version, model_digest, latency_ms, pod)
VALUES (%s, %s, '{"Amount": 1.5}', 0.25, 0, 0.3, 'credit-fraud', '1', 'd', 0.5, 'p')"""


class RetentionSite:
    """A database with a partition for each of three old days, two rows in each."""

    def __init__(self, url: str, call: Caller) -> None:
        self.url, self._call = url, call
        asyncio.run(self._make())
        with psycopg.connect(url) as connection:
            for day in (OLDEST, OLD, KEPT):
                for _ in range(2):
                    connection.execute(
                        ROW, [uuid7(), datetime(day.year, day.month, day.day, 12, tzinfo=UTC)]
                    )

    async def _make(self) -> None:
        connection = await connect(self.url)
        for day in (OLDEST, OLD, KEPT):
            await ensure_partition(connection, day)
        await connection.close()

    def retain(self, *arguments: str | Path, **environment: str) -> CommandResult:
        return self._call(*arguments, **({"DATABASE_URL": self.url} | environment))

    @property
    def tables(self) -> set[str]:
        with psycopg.connect(self.url) as connection:
            return {
                row[0]
                for row in connection.execute(
                    "SELECT tablename FROM pg_tables WHERE tablename ~ '^predictions_'"
                )
            }

    @property
    def days(self) -> list[date]:
        with psycopg.connect(self.url) as connection:
            return [
                row[0].astimezone(UTC).date()
                for row in connection.execute('SELECT "timestamp" FROM predictions ORDER BY 1')
            ]

    @contextmanager
    def reader(self) -> Iterator[None]:
        """Hold a transaction open that has read the table."""
        with psycopg.connect(self.url) as connection:
            connection.execute("SELECT count(*) FROM predictions")
            yield

    @contextmanager
    def writer(self) -> Iterator[list[str]]:
        """Insert rows without pause and yield their ids; fail on a lock held for half a second."""
        written: list[str] = []
        ended = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(self._write_until, ended, written)
            yield written
            ended.set()
            writing.result()

    def _write_until(self, ended: threading.Event, written: list[str]) -> None:
        options = "-c lock_timeout=500ms"
        with psycopg.connect(self.url, autocommit=True, options=options) as connection:
            while not ended.wait(0.01):
                written.append(uuid7())
                connection.execute(ROW, [written[-1], datetime.now(UTC)])


@pytest.fixture
def site(
    database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RetentionSite:
    return RetentionSite(database, Caller("retention", command, monkeypatch, capsys))


def answer(result: CommandResult) -> dict[str, Any]:
    return dict(json.loads(result.stdout))


def test_days_beyond_the_retention_are_dropped_and_the_next_ones_are_made(
    site: RetentionSite,
) -> None:
    result = site.retain("--json")
    assert result.returncode == 0, result.stderr
    assert [each["day"] for each in answer(result)["dropped"]] == [str(OLDEST), str(OLD)]
    assert site.days == [KEPT, KEPT]
    assert site.tables == {
        partition_name(KEPT),
        *(partition_name(TODAY + timedelta(days=ahead)) for ahead in range(8)),
    }
    again = site.retain()
    assert (again.returncode, "no day to drop" in again.stdout) == (0, True)


def test_a_dry_run_changes_nothing(site: RetentionSite) -> None:
    before = site.tables
    result = site.retain("--dry-run", "--json", FRAUDOPS_RETENTION__DAYS="404")
    assert [each["day"] for each in answer(result)["dropped"]] == [str(OLDEST)]
    assert (site.tables, len(site.days)) == (before, 6)


def test_each_day_is_written_to_parquet_first_and_never_over_an_earlier_file(
    site: RetentionSite, tmp_path: Path
) -> None:
    (tmp_path / f"{partition_name(OLDEST)}.parquet").write_bytes(b"earlier")
    result = site.retain("--export", tmp_path, "--json")
    assert [(each["rows"], Path(each["file"]).name) for each in answer(result)["dropped"]] == [
        (2, f"{partition_name(OLDEST)}-2.parquet"),
        (2, f"{partition_name(OLD)}.parquet"),
    ]
    assert (tmp_path / f"{partition_name(OLDEST)}.parquet").read_bytes() == b"earlier"
    rows = pyarrow.parquet.read_table(tmp_path / f"{partition_name(OLD)}.parquet").to_pylist()
    assert [json.loads(row["features"]) for row in rows] == [{"Amount": 1.5}] * 2
    assert {
        (row["timestamp"].date(), row["fraud_probability"], row["prediction"], row["request_id"])
        for row in rows
    } == {(OLD, 0.25, 0, None)}
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_nothing_is_dropped_without_the_requested_export(
    site: RetentionSite, tmp_path: Path
) -> None:
    result = site.retain(FRAUDOPS_RETENTION__EXPORT=str(tmp_path / "missing"))
    assert result.returncode == 64
    assert len(site.days) == 6


def test_retention_waits_for_a_reader_up_to_a_limit_and_the_next_run_drops_the_days(
    site: RetentionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_SECONDS", 1)
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0.0)
    with site.reader(), site.writer() as written:
        result = site.retain("--json")
    assert result.returncode == 75, result.stderr
    assert answer(result)["in_use"] == [str(OLDEST), str(OLD)]
    assert len(written) > 5
    result = site.retain("--json")
    assert result.returncode == 0, result.stderr
    assert [each["day"] for each in answer(result)["dropped"]] == [str(OLDEST), str(OLD)]
    assert site.days == [KEPT, KEPT, *([TODAY] * len(written))]


def test_a_partition_that_a_killed_run_detached_is_exported_and_dropped_by_the_next(
    site: RetentionSite, tmp_path: Path
) -> None:
    with psycopg.connect(site.url, autocommit=True) as connection:
        connection.execute(
            f"ALTER TABLE predictions DETACH PARTITION {partition_name(OLD)} CONCURRENTLY"
        )
    result = site.retain("--export", tmp_path, "--json")
    assert [(each["day"], each["rows"]) for each in answer(result)["dropped"]] == [
        (str(OLDEST), 2),
        (str(OLD), 2),
    ]


def test_a_day_that_an_earlier_release_detached_is_exported_with_newer_columns_empty(
    site: RetentionSite, tmp_path: Path
) -> None:
    with psycopg.connect(site.url, autocommit=True) as connection:
        connection.execute(
            f"ALTER TABLE predictions DETACH PARTITION {partition_name(OLD)} CONCURRENTLY"
        )
        connection.execute(f"ALTER TABLE {partition_name(OLD)} DROP COLUMN features_sealed")
    result = site.retain("--export", tmp_path, "--json")
    assert [each["rows"] for each in answer(result)["dropped"]] == [2, 2]
    table = pyarrow.parquet.read_table(tmp_path / f"{partition_name(OLD)}.parquet")
    assert table["features_sealed"].null_count == 2


class Labels:
    """Labels and counts of refused transactions around the cut of 400 days."""

    def __init__(self, url: str) -> None:
        self.url = url
        cut = datetime(KEPT.year, KEPT.month, KEPT.day, tzinfo=UTC)
        before, after = cut - timedelta(milliseconds=1), cut
        self.expired = [
            label(before, transaction_id="arrived before"),
            label(after, prediction_id=id_at(before)),
        ]
        self.kept = [
            label(after, transaction_id="arrived after"),
            label(after, prediction_id=id_at(after)),
            # No UUIDv7 has no time, although this one is a smaller number.
            label(after, prediction_id=str(UUID(int=4 << 76 | 2 << 62))),
            # The client chooses this time.
            label(datetime.now(UTC), labelled_at=before, transaction_id="old"),
        ]
        counts = [refusals(before), refusals(after)]
        self.count = counts[1].id
        asyncio.run(self._ship([*self.expired, *self.kept, *counts]))

    async def _ship(self, records: list[Record]) -> None:
        sink = Sink(self.url)
        assert (await sink.ship([encode(record) for record in records])).new == len(records)
        await sink.close()

    def are_left(self) -> tuple[set[str], list[str]]:
        with psycopg.connect(self.url) as connection:
            ids = {row[0] for row in connection.execute("SELECT id::text FROM labels")}
            counts = connection.execute("SELECT id::text FROM refusals ORDER BY id").fetchall()
        return ids, [row[0] for row in counts]


def label(received_at: datetime, labelled_at: datetime | None = None, **names: str) -> LabelRecord:
    return new_label(1, labelled_at or received_at, "analyst", received_at=received_at, **names)


def ids_of(labels: list[LabelRecord]) -> set[str]:
    return {each.id for each in labels}


def test_labels_and_refusals_end_with_their_days(
    site: RetentionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_retention, "RANGE_BLOCKS", 1)
    labels = Labels(site.url)
    everything = labels.are_left()
    dry = answer(site.retain("--dry-run", "--json"))
    assert (dry["labels"], dry["refusals"]) == (
        {"oldest_kept": str(KEPT), "rows": 2, "file": None},
        {"oldest_kept": str(KEPT), "rows": 1, "file": None},
    )
    assert "2 labels would be deleted" in site.retain("--dry-run").stdout
    assert labels.are_left() == everything
    # Labels may be kept for longer than predictions, or for a shorter time.
    longer = answer(site.retain("--json", "--label-days", "401"))
    assert (longer["labels"]["rows"], longer["refusals"]["rows"]) == (0, 1)
    assert labels.are_left() == (everything[0], [labels.count])
    result = site.retain("--json")
    assert answer(result)["labels"] == {"oldest_kept": str(KEPT), "rows": 2, "file": None}
    assert labels.are_left() == (ids_of(labels.kept), [labels.count])
    again = answer(site.retain("--json", FRAUDOPS_RETENTION__LABEL_DAYS="1"))
    assert again["labels"]["rows"] == 3
    assert labels.are_left()[0] == ids_of(labels.kept[3:])


def test_a_label_that_arrives_late_stays_while_its_prediction_does(site: RetentionSite) -> None:
    now = datetime.now(UTC)
    late = label(now, prediction_id=id_at(now - timedelta(days=100)))
    without = label(now, prediction_id=id_at(now - timedelta(days=402)))
    early = label(now - timedelta(days=100), prediction_id=id_at(now - timedelta(days=100)))
    labels = Labels(site.url)
    asyncio.run(labels._ship([late, without, early]))
    site.retain("--label-days", "90")
    assert labels.are_left()[0] == ids_of([late, labels.kept[3]])


def test_exactly_the_exported_labels_are_deleted(
    site: RetentionSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = Labels(site.url)
    late = label(datetime.now(UTC) - timedelta(days=500), transaction_id="late")
    export = parquet.append

    async def arrive(*arguments: Any) -> None:
        await export(*arguments)
        # A label that is shipped late, after the cursor has read the table.
        if arguments[2] == "labels" and late.id not in labels.are_left()[0]:
            await labels._ship([late])

    monkeypatch.setattr(parquet, "append", arrive)
    (tmp_path / f"labels-{KEPT:%Y%m%d}.parquet").write_bytes(b"earlier")
    result = answer(site.retain("--json", "--export", tmp_path))["labels"]
    file = tmp_path / f"labels-{KEPT:%Y%m%d}-2.parquet"
    assert (result["rows"], result["file"]) == (2, str(file))
    assert labels.are_left()[0] == ids_of([*labels.kept, late])
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert {row["id"] for row in rows} == ids_of(labels.expired)
    assert {(row["label"], row["source"]) for row in rows} == {(1, "analyst")}
    assert {row["prediction_id"] for row in rows} == {None, labels.expired[1].prediction_id}
    assert answer(site.retain("--json", "--export", tmp_path))["labels"]["rows"] == 1
    none = answer(site.retain("--json", "--export", tmp_path))["labels"]
    assert (none["rows"], none["file"]) == (0, None)


def test_no_label_is_deleted_when_its_export_fails(
    site: RetentionSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = Labels(site.url)
    everything = labels.are_left()

    def full(_file: parquet.ParquetFile) -> None:
        raise StoreDownError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(parquet.ParquetFile, "close", full)
        failed = site.retain("--export", tmp_path, "--days", "3000", "--label-days", "400")
    assert failed.returncode == 75
    append = parquet.append

    async def lose_lock(*arguments: Any) -> None:
        await append(*arguments)
        with psycopg.connect(site.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks "
                "WHERE locktype = 'advisory' AND objid = %s",
                [RETENTION_LOCK],
            )

    monkeypatch.setattr(parquet, "append", lose_lock)
    lost = site.retain("--export", tmp_path, "--days", "3000", "--label-days", "400")
    assert lost.returncode == 75, lost.stderr
    assert list(tmp_path.iterdir()) == []
    assert labels.are_left() == everything


def test_two_retentions_never_run_together(site: RetentionSite) -> None:
    with psycopg.connect(site.url) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [RETENTION_LOCK])
        result = site.retain()
    assert (result.returncode, "another retention is running" in result.stderr) == (75, True)
    assert len(site.days) == 6


def test_a_limit_of_the_role_that_ends_the_detaching_is_named(
    site: RetentionSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PAUSE_SECONDS", 0.0)
    with psycopg.connect(site.url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(
            sql.SQL("ALTER DATABASE {} SET statement_timeout = '1s'").format(sql.Identifier(name))
        )
    with site.reader():
        result = site.retain()
    assert result.returncode == 75, result.stderr
    assert "the role has statement_timeout = 1s: run ALTER ROLE" in result.stderr


def test_a_lock_that_is_lost_during_an_export_keeps_the_day_and_leaves_no_file(
    site: RetentionSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run may export the same day, and its rows would be in the archive twice."""
    write = retention.write_parquet

    async def lose_lock(*arguments: Any) -> tuple[int, Path]:
        written = await write(*arguments)
        with psycopg.connect(site.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks "
                "WHERE locktype = 'advisory' AND objid = %s",
                [RETENTION_LOCK],
            )
        return written

    monkeypatch.setattr(retention, "write_parquet", lose_lock)
    result = site.retain("--export", tmp_path)
    assert result.returncode == 75, result.stderr
    assert list(tmp_path.iterdir()) == []
    assert partition_name(OLDEST) in site.tables


async def test_a_timeout_of_the_network_is_not_a_day_in_use(database: str) -> None:
    connection = await connect(database)
    connection.terminate()

    async def fail() -> None:
        raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    with pytest.raises(TimeoutError):
        await retention._retry_when_locked(connection, fail)
