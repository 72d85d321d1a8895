"""The drift job against a real PostgreSQL: rows as the shipper leaves them, the reference from a
sealed bundle.
"""

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
import psycopg
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from fraudops.audit.connection import connect
from fraudops.audit.partitions import ensure_partition
from fraudops.datasets import Dataset, generate, load, split
from fraudops.datasets.drifts import overlay
from fraudops.drift.report import keep_latest
from fraudops.errors import BundleError, SettingsError, StoreDownError
from fraudops.feature_encryption import protection
from fraudops.ids import uuid7
from fraudops.model.manifest import DRIFT_REFERENCE, seal
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.registry import TAG_DIGEST, Registry
from fraudops.schema import Feature, FeatureSchema
from fraudops.state import State
from jobs.drift import command
from tests.support.bundles import make_manifest
from tests.support.commands import bare_environment
from tests.support.mlflow_runs import new_run, put

KEY = bytes(range(32))
NEVER = "postgresql://nobody:correct-horse@127.0.0.1:9/none"
BANK = FeatureSchema(
    "bank",
    "fraudulent",
    "at",
    "sum",
    tuple(
        Feature(name, -1000.0, 1e6) for name in ("sum", "age", "speed", "distance", "hour_of_day")
    ),
)


@cache
def sample() -> tuple[Dataset, Dataset]:
    """Validation rows, and 2,000 test rows spread evenly, of the packaged sample."""
    parts = split(load())
    return parts.validation, spread(parts.test, 2000)


@cache
def bank() -> tuple[Dataset, Dataset]:
    """A reference, and 2,000 rows like it, of a schema with five columns: a scan of these takes a
    fifth of the time.
    """
    rows = generate(4000, 7, schema=BANK, fraud_rate=0.02).dataset
    return rows.take(np.arange(0, 4000, 2)), rows.take(np.arange(1, 4000, 2))


def spread(rows: Dataset, count: int) -> Dataset:
    return rows.take(np.linspace(0, len(rows) - 1, count).astype(np.intp))


def score(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """A fixed model: every feature has its say."""
    weights = np.where(np.arange(x.shape[1]) % 2 == 0, 0.4, -0.4)
    result: NDArray[np.float64] = 1 / (1 + np.exp(4 - np.tanh(x) @ weights))
    return result


@dataclass(frozen=True)
class DriftSite:
    """A state folder with a version in production, and its audit database."""

    state: State
    database: str
    digest: str

    def drift(self, *arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(
            command,
            ["--state", str(self.state.root), *arguments],
            env={"DATABASE_URL": self.database} | environment,
        )

    def found(self, *arguments: str, **environment: str) -> dict[str, Any]:
        result = self.drift("--json", *arguments, **environment)
        assert result.exit_code == 0, result.exception
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    def answered(self, rows: Dataset, digest: str | None = None) -> str:
        """Puts these rows into the audit as answered just now; returns the moment before them as
        --since takes it.
        """
        moment = datetime.now(UTC)
        asyncio.run(insert(self.database, rows, moment, digest or self.digest))
        return moment.isoformat()


async def insert(url: str, rows: Dataset, moment: datetime, digest: str) -> None:
    names, scores = rows.schema.names, score(rows.x)
    connection = await connect(url)
    features = [json.dumps(dict(zip(names, values, strict=True))) for values in rows.x.tolist()]
    records = [
        (
            uuid7(),
            moment,
            values,
            float(p),
            int(p > 0.02),
            0.02,
            "credit-fraud",
            "3",
            digest,
            1.0,
            "local",
        )
        for values, p in zip(features, scores, strict=True)
    ]
    columns = [
        "id",
        "timestamp",
        "features",
        "fraud_probability",
        "prediction",
        "threshold",
        "model_name",
        "model_version",
        "model_digest",
        "latency_ms",
        "pod",
    ]
    try:
        await ensure_partition(connection, moment.date())
        await connection.copy_records_to_table("predictions", records=records, columns=columns)
    finally:
        await connection.close()


def write_bundle(folder: Path, reference: Dataset) -> str:
    """A sealed bundle of a manifest and a drift reference: all that drift opens."""
    folder.mkdir(parents=True)
    frame = reference.frame[list(reference.schema.names)].assign(
        fraud_probability=score(reference.x)
    )
    frame.to_parquet(folder / DRIFT_REFERENCE, index=False)
    return seal(
        folder,
        msgspec.structs.replace(make_manifest(reference.schema), expected_decision_rate=0.01),
    )


def site_with(folder: Path, database: str, reference: Dataset) -> DriftSite:
    state = State.at(folder / "state")
    digest = write_bundle(state.bundles / "new", reference)
    (state.bundles / "new").rename(state.bundles / digest)
    entry = ServingEntry(
        epoch=1,
        version="3",
        digest=digest,
        schema_fingerprint=reference.schema.fingerprint,
        by="test",
        at="2026-01-01T00:00:00Z",
    )
    FileRecordStore(state.serving_record).compare_and_set(ServingRecord(current=entry), b"")
    return DriftSite(state, database, digest)


@pytest.fixture
def site(tmp_path: Path, database: str) -> DriftSite:
    return site_with(tmp_path, database, bank()[0])


@pytest.fixture
def sample_site(tmp_path: Path, database: str) -> DriftSite:
    return site_with(tmp_path, database, sample()[0])


def psi_by_deciles(reference: pd.Series, current: pd.Series) -> float:
    """Our own computation, apart from fraudops.drift.psi: pandas cuts both by the reference's deciles."""
    edges = [-np.inf, *np.unique(np.percentile(reference, range(10, 100, 10))), np.inf]
    shares = [
        pd.cut(values, edges).value_counts(sort=False, normalize=True).clip(lower=1e-4).to_numpy()
        for values in (reference, current)
    ]
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())


def values(report: Mapping[str, Any]) -> dict[str, float]:
    return {column["name"]: column["psi"] for column in report["columns"]}


def rows_of(database: str, query: str) -> list[Any]:
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()


def test_rows_like_the_reference_are_no_drift_and_the_numbers_are_our_own(
    sample_site: DriftSite,
) -> None:
    reference, current = sample()
    since = sample_site.answered(current)
    report = sample_site.found("--since", since)
    assert (report["verdict"], report["rows"], report["compared"]) == ("none", 2000, 2000)
    expected = {
        name: psi_by_deciles(reference.frame[name], current.frame[name])
        for name in reference.schema.names
    }
    expected["fraud_probability"] = psi_by_deciles(
        pd.Series(score(reference.x)), pd.Series(score(current.x))
    )
    assert values(report) == pytest.approx(expected, rel=1e-9)
    assert max(expected.values()) < 0.1


def protect(database: str, how: Literal["sealed", "hashed"], only: str = "true") -> None:
    """Does to the rows that are in the table what a worker would have done."""
    keep = protection(how, [KEY])
    assert keep
    with psycopg.connect(database) as connection:
        rows = connection.execute(
            f"SELECT id::text, features FROM predictions WHERE {only}".encode()
        ).fetchall()
        kept = [
            (keep(name, {key: float(value) for key, value in features.items()}), name)
            for name, features in rows
        ]
        connection.cursor().executemany(
            "UPDATE predictions SET features = NULL, features_sealed = %s WHERE id = %s", kept
        )


def test_sealed_features_are_compared_by_whoever_has_the_key(site: DriftSite) -> None:
    since = site.answered(bank()[1])
    plain = site.found("--since", since)
    protect(site.database, "sealed")
    keyed = site.found("--since", since, FRAUDOPS_AUDIT__KEY=base64.b64encode(KEY).decode())
    assert (values(keyed), keyed["compared"], keyed["features_unavailable"]) == (
        values(plain),
        2000,
        None,
    )


@pytest.mark.parametrize(
    ("how", "key", "reason"),
    [
        ("hashed", KEY, "only a keyed hash of them is kept"),
        ("sealed", None, "they are sealed, and FRAUDOPS_AUDIT__KEY is not set"),
        ("sealed", bytes(32), "they are sealed by another key than FRAUDOPS_AUDIT__KEY"),
    ],
    ids=["hashed", "no key", "another key"],
)
def test_without_features_the_score_is_judged_and_their_drift_is_said_to_be_not_available(
    site: DriftSite, how: Literal["sealed", "hashed"], key: bytes | None, reason: str
) -> None:
    since = site.answered(bank()[1])
    protect(site.database, how)
    given = {"FRAUDOPS_AUDIT__KEY": base64.b64encode(key).decode()} if key else {}
    report = site.found("--since", since, **given)
    assert (
        report["verdict"],
        report["compared"],
        list(values(report)),
        report["features_unavailable"],
    ) == ("none", 2000, ["fraud_probability"], reason)
    said = site.drift("--since", since, **given).stdout
    assert (
        f"the score is within its threshold; drift of the features is not available: {reason}"
        in " ".join(said.split())
    )
    assert reason in Path(report["html_path"]).read_text()


def test_a_few_rows_that_were_forgotten_do_not_end_the_comparison(site: DriftSite) -> None:
    since = site.answered(bank()[1])
    protect(site.database, "hashed", "id IN (SELECT id FROM predictions ORDER BY id LIMIT 100)")
    with psycopg.connect(site.database) as connection:
        connection.execute(
            "UPDATE predictions SET features = NULL WHERE id IN (SELECT id FROM predictions ORDER BY id DESC LIMIT 50)"
        )
    report = site.found("--since", since)
    assert (
        report["rows"],
        report["compared"],
        len(values(report)),
        report["features_unavailable"],
    ) == (2000, 1850, 6, None)


def test_the_run_is_a_row_with_its_columns_and_an_html_report_without_rows(
    sample_site: DriftSite,
) -> None:
    _, current = sample()
    report = sample_site.found("--since", sample_site.answered(current))
    [row] = rows_of(
        sample_site.database,
        "SELECT model_version, model_digest, rows, verdict, score_psi, decision_rate, expected_decision_rate, report, html_path FROM drift_runs",
    )
    assert row[:4] == ("3", sample_site.digest, 2000, "none")
    assert row[4:7] == (values(report)["fraud_probability"], report["rate"]["value"], 0.01)
    assert row[7] == report
    stored = rows_of(
        sample_site.database, "SELECT column_name, psi, threshold, exceeded FROM drift_columns"
    )
    assert {name: psi for name, psi, _, _ in stored} == values(report)
    assert {(threshold, exceeded) for _, _, threshold, exceeded in stored} == {(0.2, False)}
    page = Path(row[8]).read_text()
    assert "verdict: NONE" in page
    assert page.index("verdict: NONE") < page.index("drawDashboard")
    for name, value in values(report).items():
        assert f"<td>{name}</td><td>{value:.3f}</td>" in page
    middle = current.frame["V17"].iloc[1:-1]
    inside = middle[(middle > current.frame["V17"].min()) & (middle < current.frame["V17"].max())]
    assert not any(repr(value) in page for value in inside.tolist() if len(repr(value)) > 10)


def test_the_verdict_is_shown_and_stored_before_the_report_is_written(site: DriftSite) -> None:
    since = site.answered(bank()[1])
    site.state.reports.write_text("a file where the folder of the reports should be")
    result = site.drift("--since", since)
    assert "verdict: NONE" in result.stdout
    assert "report: " not in result.stdout
    assert isinstance(result.exception, StoreDownError)
    assert "leave the report out with --no-report" in str(result.exception)
    assert rows_of(site.database, "SELECT verdict FROM drift_runs") == [("none",)]


def test_without_a_report_the_verdict_is_the_same(site: DriftSite) -> None:
    since = site.answered(bank()[1])
    alone = site.found("--since", since, "--no-report")
    assert not site.state.reports.exists()
    report = site.found("--since", since)
    assert (alone["verdict"], alone["html_path"]) == (report["verdict"], None)
    assert values(alone) == values(report)


def test_drift_warns_once_and_alarms_in_the_second_window_running(site: DriftSite) -> None:
    drifted, _ = overlay(bank()[1], "covariate", seed=7)
    first = site.found("--since", site.answered(spread(drifted, 1000)))
    assert first["verdict"] == "warning"
    assert 1 <= sum(column["exceeded"] for column in first["columns"]) < len(first["columns"])
    second_begins = site.answered(spread(drifted, 900))
    overlapping = site.found(
        "--since", (datetime.fromisoformat(second_begins) - timedelta(minutes=10)).isoformat()
    )
    assert (overlapping["verdict"], overlapping["before"]) == ("warning", None)
    second = site.found("--since", second_begins)
    assert (second["verdict"], second["before"]["id"]) == ("alarm", first["id"])


def test_a_window_without_enough_rows_is_recorded_and_passed_over(site: DriftSite) -> None:
    inflated, _ = overlay(bank()[1], "amount-inflation", seed=7)
    assert site.found("--since", site.answered(spread(inflated, 500)))["verdict"] == "warning"
    quiet = site.found("--since", site.answered(spread(inflated, 499)))
    assert (quiet["verdict"], quiet["columns"], quiet["html_path"], quiet["rows"]) == (
        "not enough rows",
        [],
        None,
        499,
    )
    site.answered(spread(inflated, 500))
    last = site.found("--since", "last")
    assert (last["start"], last["rows"], last["verdict"]) == (quiet["end"], 500, "alarm")
    assert [column["name"] for column in last["columns"] if column["exceeded"]] == ["sum"]
    assert rows_of(site.database, "SELECT verdict FROM drift_runs ORDER BY at") == [
        ("warning",),
        ("not enough rows",),
        ("alarm",),
    ]


def test_what_another_version_answered_and_found_does_not_count(site: DriftSite) -> None:
    drifted, _ = overlay(bank()[1], "covariate", seed=7)
    site.answered(spread(drifted, 800), digest="f" * 64)
    with psycopg.connect(site.database) as connection:
        connection.execute(
            """INSERT INTO drift_runs (id, at, window_start, window_end, model_version, model_digest, rows, verdict, report)
               VALUES (gen_random_uuid(), now(), now() - interval '1 day', now(), '2', %s, 800, 'alarm', '{}')""",
            ["f" * 64],
        )
    report = site.found("--hours", "1")
    assert (report["verdict"], report["rows"], report["before"]) == ("not enough rows", 0, None)
    assert rows_of(
        site.database, "SELECT decision_rate FROM drift_runs WHERE model_version = '3'"
    ) == [(None,)]


def test_a_schema_of_other_names_is_scanned_alike_and_read_by_a_person(site: DriftSite) -> None:
    drifted, _ = overlay(spread(bank()[1], 1000), "amount-inflation", seed=1)
    site.answered(drifted)
    result = site.drift(
        "--hours", "1", FRAUDOPS_DRIFT__FEATURE_THRESHOLDS='{"age": 0.9}', COLUMNS="100"
    )
    assert result.exit_code == 0, result.exception
    said = result.stdout
    assert "Drift of version 3" in said
    assert "1,000 rows" in said
    assert "verdict: WARNING: above the threshold: sum" in said
    assert "age" in said
    assert "0.9" in said
    assert "decided as fraud:" in said
    assert "fraudops drift --since last" in said


def test_a_threshold_of_a_column_that_the_model_lacks_is_refused(site: DriftSite) -> None:
    result = site.drift(FRAUDOPS_DRIFT__FEATURE_THRESHOLDS='{"V99": 0.4}')
    assert isinstance(result.exception, SettingsError)
    assert "'V99'" in str(result.exception)


def test_a_window_that_cannot_be_is_refused(site: DriftSite) -> None:
    result = site.drift("--since", "2999-01-01")
    assert isinstance(result.exception, SettingsError)
    assert "lies in the future" in str(result.exception)


def test_the_first_run_of_a_version_since_the_last_takes_the_hours(site: DriftSite) -> None:
    first = site.found("--since", "last", "--hours", "2")
    assert datetime.fromisoformat(first["end"]) - datetime.fromisoformat(
        first["start"]
    ) == timedelta(hours=2)
    assert site.found("--since", "last", "--hours", "2")["start"] == first["end"]


def test_a_reference_that_was_altered_is_not_believed(site: DriftSite) -> None:
    (site.state.bundles / site.digest / DRIFT_REFERENCE).write_bytes(b"PAR1")
    result = site.drift()
    assert isinstance(result.exception, BundleError)
    assert DRIFT_REFERENCE in str(result.exception)


def test_the_reference_comes_from_mlflow_when_the_service_has_not_cached_it(
    site: DriftSite, mlflow_url: str
) -> None:
    model = f"drift-{uuid7()}"
    registry = Registry(mlflow_url, model)
    run = new_run(mlflow_url)
    for path in (site.state.bundles / site.digest).iterdir():
        put(mlflow_url, run, f"bundle/{path.name}", path.read_bytes())
    version = registry.create_version(run, {TAG_DIGEST: site.digest})
    store = FileRecordStore(site.state.serving_record)
    record, token = store.read()
    assert record.current is not None
    store.compare_and_set(
        msgspec.structs.replace(
            record, current=msgspec.structs.replace(record.current, version=version)
        ),
        token,
    )
    (site.state.bundles / site.digest).rename(site.state.bundles / "elsewhere")
    report = site.found(MLFLOW_TRACKING_URI=mlflow_url, FRAUDOPS_MODEL_NAME=model)
    assert (report["reference_rows"], report["verdict"]) == (len(bank()[0]), "not enough rows")


def test_a_report_is_deleted_when_fifty_newer_ones_are_there(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"drift-{number:03}.html").touch()
    keep_latest(tmp_path, 50)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"drift-{number:03}.html" for number in range(10, 60)
    ]


def as_program(state: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    arguments = [sys.executable, "-m", "jobs.drift", "--state", str(state)]
    return subprocess.run(
        arguments,
        env=bare_environment() | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_without_a_version_in_production_the_program_says_what_to_run(tmp_path: Path) -> None:
    done = as_program(tmp_path, DATABASE_URL=NEVER)
    assert (done.returncode, done.stdout) == (64, "")
    assert "fraudops promote" in done.stderr


def test_with_postgresql_away_the_program_ends_75_without_its_password(tmp_path: Path) -> None:
    state = site_with(tmp_path, NEVER, spread(sample()[0], 300)).state
    done = as_program(state.root, DATABASE_URL=NEVER)
    assert (done.returncode, done.stdout) == (75, "")
    assert "PostgreSQL" in done.stderr
    assert "correct-horse" not in done.stderr
    assert "Traceback" not in done.stderr
