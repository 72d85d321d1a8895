"""The program of `helm test`, on the whole product."""

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import psycopg
import pytest

from fraudops.client import PredictResponse
from fraudops.errors import RefusedError
from jobs.install.smoke_test import compare, known_transaction
from tests.support.platform import Platform

ANSWER = PredictResponse(
    prediction_id="p", fraud_probability=0.25, prediction=0, model_version="3", threshold=0.5
)
ROW: dict[str, Any] = {
    "fraud_probability": 0.25,
    "prediction": 0,
    "model_version": "3",
    "transaction_id": "t",
    "pod": "pod-1",
}


def test_an_answer_and_its_audit_row_are_found(serving: Platform) -> None:
    environment = {"PATH": os.environ["PATH"], "FRAUDOPS_STATE": str(serving.state.root)}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.install.smoke_test", "--wait", "30"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "its audit row is in PostgreSQL" in done.stdout
    with psycopg.connect(serving.database_url) as connection:
        assert connection.execute(
            "SELECT count(*) FROM predictions WHERE starts_with(transaction_id, 'fraudops-test-')"
        ).fetchone() == (1,)


def test_a_row_that_differs_is_named_by_its_column() -> None:
    compare(ANSWER, ROW, "t")
    for column, other in (
        ("fraud_probability", 0.26),
        ("prediction", 1),
        ("model_version", "4"),
        ("transaction_id", "u"),
    ):
        with pytest.raises(RefusedError, match=column):
            compare(ANSWER, ROW | {column: other}, "t")


def test_the_test_transaction_is_the_packaged_one() -> None:
    packaged = json.loads(
        resources.files("fraudops.datasets").joinpath("sample/transaction.json").read_text()
    )
    assert known_transaction(None) == packaged


def test_the_test_transaction_of_another_schema_is_the_middle_of_each_range(tmp_path: Path) -> None:
    schema = tmp_path / "schema.yaml"
    schema.write_text(
        "{name: own, label: fraud, time: t, amount: a, features: ["
        "{name: a, minimum: 0, maximum: 10}, {name: b, minimum: -1, maximum: 1}]}"
    )
    assert known_transaction(schema) == {"a": 5.0, "b": 0.0}
