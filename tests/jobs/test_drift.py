"""`fraudops drift` on a real PostgreSQL, with the reference of a sealed bundle."""

import base64
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd
import psycopg
import pytest

from fraudops.datasets.drifts import overlay
from fraudops.drift.report import keep_latest
from fraudops.errors import BundleError, SettingsError, StoreDownError
from fraudops.feature_encryption import protection
from fraudops.ids import timestamp_ms, uuid7
from fraudops.model.manifest import DRIFT_REFERENCE
from fraudops.promotion.local import FileRecordStore
from fraudops.registry import TAG_DIGEST, Registry
from tests.support.audit_records import refusals
from tests.support.commands import bare_environment
from tests.support.drift_site import (
    DriftSite,
    bank,
    sample,
    score,
    signed_verdict,
    site_with,
    spread,
)
from tests.support.mlflow_runs import new_run, put

KEY = bytes(range(32))
# Evidently's report costs a second, and most tests read only the verdict.
NO_REPORT = "--no-report"
NEVER = "postgresql://nobody:correct-horse@127.0.0.1:9/none"


@pytest.fixture
def site(tmp_path: Path, database: str) -> DriftSite:
    return site_with(tmp_path, database, bank()[0])


@pytest.fixture
def sample_site(tmp_path: Path, database: str) -> DriftSite:
    return site_with(tmp_path, database, sample()[0])


def psi_by_deciles(reference: pd.Series, current: pd.Series) -> float:
    """Compute the PSI over the reference's deciles with pandas, not with fraudops.drift.psi."""
    edges = [-np.inf, *np.unique(np.percentile(reference, range(10, 100, 10))), np.inf]
    shares = [
        pd.cut(values, edges).value_counts(sort=False, normalize=True).clip(lower=1e-4).to_numpy()
        for values in (reference, current)
    ]
    return float(((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum())


def psi_of(report: Mapping[str, Any]) -> dict[str, float]:
    return {column["name"]: column["psi"] for column in report["columns"]}


def rows_of(database: str, query: str) -> list[Any]:
    with psycopg.connect(database) as connection:
        return connection.execute(query).fetchall()


def test_rows_like_the_reference_show_no_drift_and_the_psi_is_computed_independently(
    sample_site: DriftSite,
) -> None:
    reference, current = sample()
    since = sample_site.insert_now(current)
    report = sample_site.report("--since", since, NO_REPORT)
    assert (report["verdict"], report["rows"], report["compared"]) == ("none", 2000, 2000)
    expected = {
        name: psi_by_deciles(reference.frame[name], current.frame[name])
        for name in reference.schema.names
    }
    expected["fraud_probability"] = psi_by_deciles(
        pd.Series(score(reference.x)), pd.Series(score(current.x))
    )
    assert psi_of(report) == pytest.approx(expected, rel=1e-9)
    assert max(expected.values()) < 0.1


def protect(database: str, how: Literal["sealed", "hashed"], only: str = "true") -> None:
    """Seal or hash the features of rows in the table, as a worker does before the spool."""
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


def test_sealed_features_are_compared_with_the_key(site: DriftSite) -> None:
    since = site.insert_now(bank()[1])
    plain = site.report("--since", since, NO_REPORT)
    protect(site.database, "sealed")
    keyed = site.report(
        "--since", since, NO_REPORT, FRAUDOPS_AUDIT__KEY=base64.b64encode(KEY).decode()
    )
    assert (psi_of(keyed), keyed["compared"], keyed["features_unavailable"]) == (
        psi_of(plain),
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
def test_without_readable_features_the_score_is_judged_and_their_drift_is_not_available(
    site: DriftSite, how: Literal["sealed", "hashed"], key: bytes | None, reason: str
) -> None:
    since = site.insert_now(bank()[1])
    protect(site.database, how)
    key_setting = {"FRAUDOPS_AUDIT__KEY": base64.b64encode(key).decode()} if key else {}
    report = site.report("--since", since, **key_setting)
    assert (
        report["verdict"],
        report["compared"],
        list(psi_of(report)),
        report["features_unavailable"],
    ) == ("none", 2000, ["fraud_probability"], reason)
    text = site.drift("--since", since, NO_REPORT, **key_setting).stdout
    assert (
        f"the score is within its threshold; drift of the features is not available: {reason}"
        in " ".join(text.split())
    )
    assert reason in Path(report["html_path"]).read_text()


def test_a_few_rows_that_were_forgotten_do_not_end_the_comparison(site: DriftSite) -> None:
    since = site.insert_now(bank()[1])
    protect(site.database, "hashed", "id IN (SELECT id FROM predictions ORDER BY id LIMIT 100)")
    with psycopg.connect(site.database) as connection:
        connection.execute(
            "UPDATE predictions SET features = NULL"
            " WHERE id IN (SELECT id FROM predictions ORDER BY id DESC LIMIT 50)"
        )
    report = site.report("--since", since, NO_REPORT)
    assert (
        report["rows"],
        report["compared"],
        len(psi_of(report)),
        report["features_unavailable"],
    ) == (2000, 1850, 6, None)


def test_the_run_is_a_row_with_its_columns_and_an_html_report_without_rows(
    sample_site: DriftSite,
) -> None:
    _, current = sample()
    report = sample_site.report("--since", sample_site.insert_now(current))
    [row] = rows_of(
        sample_site.database,
        "SELECT model_version, model_digest, rows, verdict, score_psi, decision_rate,"
        " expected_decision_rate, report, html_path FROM drift_runs",
    )
    assert row[:4] == ("3", sample_site.digest, 2000, "none")
    assert row[4:7] == (psi_of(report)["fraud_probability"], report["rate"]["value"], 0.01)
    assert row[7] == report
    stored = rows_of(
        sample_site.database, "SELECT column_name, psi, threshold, exceeded FROM drift_columns"
    )
    assert {name: psi for name, psi, _, _ in stored} == psi_of(report)
    assert {(threshold, exceeded) for _, _, threshold, exceeded in stored} == {(0.2, False)}
    page = Path(row[8]).read_text()
    assert "verdict: NONE" in page
    assert page.index("verdict: NONE") < page.index("drawDashboard")
    for name, value in psi_of(report).items():
        assert f"<td>{name}</td><td>{value:.3f}</td>" in page
    middle = current.frame["V17"].iloc[1:-1]
    inside = middle[(middle > current.frame["V17"].min()) & (middle < current.frame["V17"].max())]
    assert not any(repr(value) in page for value in inside.tolist() if len(repr(value)) > 10)


def test_the_verdict_is_shown_and_stored_before_the_report_is_written(site: DriftSite) -> None:
    since = site.insert_now(bank()[1])
    site.state.reports.write_text("a file where the folder of the reports should be")
    result = site.drift("--since", since)
    assert "verdict: NONE" in result.stdout
    assert "report: " not in result.stdout
    assert isinstance(result.exception, StoreDownError)
    assert "leave the report out with --no-report" in str(result.exception)
    assert rows_of(site.database, "SELECT verdict FROM drift_runs") == [("none",)]


def test_without_a_report_the_verdict_is_the_same(site: DriftSite) -> None:
    since = site.insert_now(bank()[1])
    alone = site.report("--since", since, "--no-report")
    assert not site.state.reports.exists()
    report = site.report("--since", since)
    assert (alone["verdict"], alone["html_path"]) == (report["verdict"], None)
    assert psi_of(alone) == psi_of(report)


def test_drift_warns_in_the_first_window_and_alarms_in_the_next_one(site: DriftSite) -> None:
    drifted, _ = overlay(bank()[1], "covariate", seed=7)
    first = site.report("--since", site.insert_now(spread(drifted, 1000)), NO_REPORT)
    assert first["verdict"] == "warning"
    assert 1 <= sum(column["exceeded"] for column in first["columns"]) < len(first["columns"])
    second_begins = site.insert_now(spread(drifted, 900))
    overlapping = site.report(
        "--since",
        (datetime.fromisoformat(second_begins) - timedelta(minutes=10)).isoformat(),
        NO_REPORT,
    )
    assert (overlapping["verdict"], overlapping["before"]) == ("warning", None)
    second = site.report("--since", second_begins, NO_REPORT)
    assert (second["verdict"], second["before"]["id"]) == ("alarm", first["id"])


def test_a_window_without_enough_rows_is_recorded_and_skipped(site: DriftSite) -> None:
    inflated, _ = overlay(bank()[1], "amount-inflation", seed=7)
    began = site.insert_now(spread(inflated, 500))
    assert site.report("--since", began, NO_REPORT)["verdict"] == "warning"
    quiet = site.report("--since", site.insert_now(spread(inflated, 499)))
    assert (quiet["verdict"], quiet["columns"], quiet["html_path"], quiet["rows"]) == (
        "not enough rows",
        [],
        None,
        499,
    )
    site.insert_now(spread(inflated, 500))
    last = site.report("--since", "last", NO_REPORT)
    assert (last["start"], last["rows"], last["verdict"]) == (quiet["end"], 500, "alarm")
    assert [column["name"] for column in last["columns"] if column["exceeded"]] == ["sum"]
    assert rows_of(site.database, "SELECT verdict FROM drift_runs ORDER BY at") == [
        ("warning",),
        ("not enough rows",),
        ("alarm",),
    ]


def test_predictions_and_runs_of_another_version_do_not_count(site: DriftSite) -> None:
    drifted, _ = overlay(bank()[1], "covariate", seed=7)
    site.insert_now(spread(drifted, 800), digest="f" * 64)
    with psycopg.connect(site.database) as connection:
        connection.execute(
            """INSERT INTO drift_runs (id, at, window_start, window_end, model_version,
                                       model_digest, rows, verdict, report)
               VALUES (gen_random_uuid(), now(), now() - interval '1 day', now(), '2',
                       %s, 800, 'alarm', '{}')""",
            ["f" * 64],
        )
    report = site.report("--hours", "1")
    assert (report["verdict"], report["rows"], report["before"]) == ("not enough rows", 0, None)
    assert rows_of(
        site.database, "SELECT decision_rate FROM drift_runs WHERE model_version = '3'"
    ) == [(None,)]


def test_the_share_of_refused_transactions_is_reported(site: DriftSite) -> None:
    """The verdict does not depend on it."""
    since = site.insert_now(spread(bank()[1], 900))
    before = site.report("--since", since, "--no-report")
    assert (before["refused"], before["refused_share"]) == (0, 0.0)
    counts = [
        refusals(rows=60),
        refusals(field="age", rows=40),
        refusals(rows=1_000, model_version="2"),
        refusals(rows=1_000, model_name="another"),
        refusals(datetime.fromisoformat(since) - timedelta(minutes=1), rows=1_000),
    ]
    with psycopg.connect(site.database) as connection:
        for each in counts:
            connection.execute(
                """INSERT INTO refusals (at, id, pod, endpoint, model_name, model_version, field,
                                         reason, rows)
                   VALUES (to_timestamp(%s / 1000.0), %s, 'p', %s, %s, %s, %s, %s, %s)""",
                [
                    timestamp_ms(each.id),
                    each.id,
                    each.endpoint,
                    each.model_name,
                    each.model_version,
                    each.field,
                    each.reason,
                    each.rows,
                ],
            )
    report = site.report("--since", since)
    assert (report["refused"], report["refused_share"]) == (100, 0.1)
    assert report["verdict"] == before["verdict"]
    line = "refused and not scored: 100 transactions (10.00% of all)"
    assert line in site.drift("--since", since, "--no-report").stdout
    assert line in Path(report["html_path"]).read_text()


def test_a_schema_of_other_names_is_scanned_and_printed_as_text(site: DriftSite) -> None:
    drifted, _ = overlay(spread(bank()[1], 1000), "amount-inflation", seed=1)
    site.insert_now(drifted)
    result = site.drift(
        "--hours", "1", NO_REPORT, FRAUDOPS_DRIFT__FEATURE_THRESHOLDS='{"age": 0.9}', COLUMNS="100"
    )
    assert result.exit_code == 0, result.exception
    for words in (
        "Drift of version 3",
        "1,000 rows",
        "verdict: WARNING: above the threshold: sum",
        "age",
        "0.9",
        "decided as fraud:",
        "fraudops drift --since last",
    ):
        assert words in result.stdout


def test_a_threshold_of_a_column_that_the_model_lacks_is_refused(site: DriftSite) -> None:
    result = site.drift(FRAUDOPS_DRIFT__FEATURE_THRESHOLDS='{"V99": 0.4}')
    assert isinstance(result.exception, SettingsError)
    assert "'V99'" in str(result.exception)


def test_a_window_in_the_future_is_refused(site: DriftSite) -> None:
    result = site.drift("--since", "2999-01-01")
    assert isinstance(result.exception, SettingsError)
    assert "lies in the future" in str(result.exception)


def test_since_last_uses_the_hours_for_the_first_run_of_a_version(site: DriftSite) -> None:
    first = site.report("--since", "last", "--hours", "2")
    assert datetime.fromisoformat(first["end"]) - datetime.fromisoformat(
        first["start"]
    ) == timedelta(hours=2)
    assert site.report("--since", "last", "--hours", "2")["start"] == first["end"]


def register_bundle(site: DriftSite, mlflow_url: str) -> dict[str, str]:
    """Register the site's bundle and let its version serve; return the settings of the registry."""
    model = f"drift-{uuid7()}"
    registry = Registry(mlflow_url, model)
    run = new_run(mlflow_url)
    for path in (site.state.bundles / site.digest).iterdir():
        put(mlflow_url, run, f"bundle/{path.name}", path.read_bytes())
    version = registry.create_version(run, {TAG_DIGEST: site.digest})
    store = FileRecordStore(site.state.serving_record)
    record, token = store.read()
    assert record.current is not None
    served = msgspec.structs.replace(
        record.current,
        version=version,
        signed_verdict=signed_verdict(site.state, site.digest, version),
    )
    store.compare_and_set(msgspec.structs.replace(record, current=served), token)
    return {"MLFLOW_TRACKING_URI": mlflow_url, "FRAUDOPS_MODEL_NAME": model}


def test_an_altered_reference_is_refused(site: DriftSite, mlflow_url: str) -> None:
    altered = site.state.bundles / site.digest / DRIFT_REFERENCE
    altered.write_bytes(b"PAR1")
    result = site.drift(**register_bundle(site, mlflow_url))
    assert isinstance(result.exception, BundleError)
    assert DRIFT_REFERENCE in str(result.exception)
    assert altered.read_bytes() == b"PAR1"


def test_an_altered_reference_in_the_cache_is_logged_and_fetched_from_mlflow(
    site: DriftSite, mlflow_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    registry = register_bundle(site, mlflow_url)
    (site.state.bundles / site.digest / DRIFT_REFERENCE).write_bytes(b"PAR1")
    report = site.report(**registry)
    assert (report["reference_rows"], report["verdict"]) == (len(bank()[0]), "not enough rows")
    assert f"{DRIFT_REFERENCE} has been altered" in caplog.text


def test_a_reference_that_the_service_has_not_cached_is_fetched_from_mlflow(
    site: DriftSite, mlflow_url: str
) -> None:
    registry = register_bundle(site, mlflow_url)
    (site.state.bundles / site.digest).rename(site.state.bundles / "elsewhere")
    report = site.report(**registry)
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


def test_without_a_version_in_production_the_program_names_the_command_to_run(
    tmp_path: Path,
) -> None:
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
