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

import psycopg
import pyarrow.parquet
import pytest
from psycopg import sql

from fraudops.audit import retention
from fraudops.audit.connection import connect
from fraudops.audit.partitions import RETENTION_LOCK, ensure_partition, partition_name
from fraudops.ids import uuid7
from jobs.retention import command
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
