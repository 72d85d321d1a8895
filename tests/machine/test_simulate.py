"""`fraudops simulate`: traffic through the running product, checked in the audit tables."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fraudops.audit.shipper_status import read_shipper_status
from fraudops.datasets import generate
from fraudops.datasets.writing import write_frame
from fraudops.schema import load_schema
from jobs.simulate import command
from tests.support.commands import Caller
from tests.support.platform import Platform
from tests.support.processes import free_port
from tests.support.waiting import eventually

BANK = Path(__file__).parents[1] / "data" / "bank.yaml"


def count(platform: Platform, question: str, *values: Any) -> int:
    with psycopg.connect(platform.database_url) as connection:
        row = connection.execute(question, values).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return int(row[0])


def test_every_transaction_is_answered_audited_and_labelled(serving: Platform) -> None:
    started = datetime.now(UTC)

    def all_shipped() -> None:
        # Rows of other tests would else arrive between the two counts.
        status = read_shipper_status(serving.state)
        assert status
        assert status.at > started
        assert status.backlog_rows == 0

    eventually(all_shipped)
    before = [
        count(serving, f"SELECT count(*) FROM {table}") for table in ("predictions", "labels")
    ]
    result = serving.run("simulate", "--rows", "300", "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["sent"], summary["answered"], summary["refused"], summary["failures"]) == (
        300,
        300,
        0,
        0,
    )
    assert (summary["labels"], summary["repeated_rows"], summary["drifted_rows"]) == (300, False, 0)
    assert summary["source"] == "packaged sample"
    assert 0 < summary["caught"] <= summary["frauds"] < 15
    assert sum(summary["versions"].values()) == 300

    def arrived() -> None:
        after = [
            count(serving, f"SELECT count(*) FROM {table}") for table in ("predictions", "labels")
        ]
        assert [now - then for now, then in zip(after, before, strict=True)] == [300, 300]

    eventually(arrived)
    joined = (
        "SELECT count(*) FROM labels JOIN predictions ON predictions.id = labels.prediction_id"
        " WHERE labels.source = 'simulate' AND label = 1"
    )
    assert count(serving, joined) >= summary["frauds"]


def test_no_labels_sends_none_and_each_run_has_its_own_transaction_ids(
    serving: Platform,
) -> None:
    for _run in range(2):
        result = serving.run(
            "simulate", "--rows", "20", "--no-labels", "--json", "--concurrency", "2"
        )
        assert json.loads(result.stdout)["labels"] == 0
    ids = (
        "SELECT count(*) - count(DISTINCT transaction_id) FROM predictions"
        " WHERE transaction_id LIKE 'sim-%%'"
    )
    assert count(serving, ids) == 0


def test_a_drift_is_applied_to_the_rows_that_are_sent(serving: Platform) -> None:
    result = serving.run(
        "simulate", "--rows", "100", "--no-labels", "--drift", "covariate", "--strength", "2"
    )
    assert result.returncode == 0, result.stderr
    assert (
        "packaged sample under covariate drift (strength 2, seed 7), 100 of 100 rows changed"
        in result.stdout
    )
    assert "100: 100 answered, 0 refused, 0 failures" in result.stdout


def test_more_rows_than_the_data_has_are_drawn_with_replacement_and_reported(
    serving: Platform, tmp_path: Path
) -> None:
    rows = tmp_path / "few.csv"
    write_frame(generate(200, 7, fraud_rate=0.2).dataset.frame, rows)
    result = serving.run("simulate", "--data", str(rows), "--rows", "60", "--json", "--no-labels")
    assert "the test part has 40 rows: 60 are drawn from it with replacement" in result.stderr
    summary = json.loads(result.stdout)
    assert (summary["answered"], summary["repeated_rows"]) == (60, True)


def test_rows_that_the_service_refuses_end_with_65_and_the_reason(
    serving: Platform, tmp_path: Path
) -> None:
    rows = tmp_path / "bank.csv"
    write_frame(generate(200, 7, load_schema(BANK), fraud_rate=0.2).dataset.frame, rows)
    result = serving.run("simulate", "--data", str(rows), "--schema", str(BANK), "--rows", "30")
    assert result.returncode == 65
    assert "30: 0 answered, 30 refused, 0 failures" in result.stdout
    assert "V1 is missing" in result.stderr


def test_a_rate_is_kept(serving: Platform) -> None:
    result = serving.run("simulate", "--rows", "21", "--rate", "20", "--no-labels", "--json")
    assert json.loads(result.stdout)["seconds"] >= 1.0, "row 20 is due a second after row 0"


def test_a_service_that_is_away_ends_with_75(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Caller("simulate", command, monkeypatch, capsys)(
        "--url", f"http://127.0.0.1:{free_port()}"
    )
    assert result.returncode == 75
    assert "does not answer (ConnectError)" in result.stderr
    assert result.stdout == ""
