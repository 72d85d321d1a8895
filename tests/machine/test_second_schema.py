"""A model with five columns of a bank, from generated data to drift, by configuration alone."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fraudops.endpoints import Endpoints
from fraudops.schema import load_schema
from tests.support.commands import bare_environment
from tests.support.http_client import HTTP
from tests.support.platform import Platform
from tests.support.serving import TOKEN, Service

BANK = Path(__file__).parents[1] / "data" / "bank.yaml"


@pytest.fixture
def bank(tmp_path: Path, mlflow_url: str, database: str) -> Iterator[Platform]:
    """Yield a bank's service and shipper on the PostgreSQL and the MLflow that tests share."""
    environment = {"MLFLOW_TRACKING_URI": mlflow_url, "FRAUDOPS_MODEL_NAME": "bank"}
    service = Service(tmp_path / "state", environment=environment).start()
    service.state.admin_token.write_text(TOKEN)
    endpoints = Endpoints(inference_url=service.url, database_url=database, mlflow_url=mlflow_url)
    service.state.endpoints.write_bytes(msgspec.json.encode(endpoints))
    shipping = bare_environment() | {"DATABASE_URL": database, "FRAUDOPS_STATE": str(service.root)}
    with (
        (tmp_path / "shipper.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "services.shipper"], env=shipping, stderr=log
        ) as shipper,
    ):
        try:
            yield Platform(service.state, {"FRAUDOPS_MODEL_NAME": "bank"})
        finally:
            shipper.terminate()
            service.stop()


def done(platform: Platform, *arguments: str) -> str:
    result = platform.run(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_model_of_other_columns_is_trained_promoted_served_and_watched(
    bank: Platform, tmp_path: Path
) -> None:
    data, names = str(tmp_path / "bank.csv"), load_schema(BANK).names
    done(
        bank,
        "data",
        "generate",
        "--rows",
        "12000",
        "--fraud-rate",
        "0.02",
        "--schema",
        str(BANK),
        "--out",
        data,
    )
    data_options = ("--data", data, "--schema", str(BANK))
    version = str(json.loads(done(bank, "train", *data_options, "--json"))["version"])
    assert (
        json.loads(done(bank, "validate", "--version", version, *data_options, "--json"))["passed"]
        is True
    )
    done(bank, "promote", "--version", version, "--alias", "production")

    row = dict.fromkeys(names, 1.0)
    answer = HTTP.post(f"{bank.inference_url}/predict", json=row)
    assert answer.status_code == 200, answer.text
    refused = HTTP.post(f"{bank.inference_url}/predict", json=row | {"V1": 0.0})
    assert refused.status_code == 422
    assert "V1" in refused.text
    assert names[0] in HTTP.get(f"{bank.inference_url}/openapi.json").text

    done(bank, "simulate", "--rows", "800", *data_options)
    report = json.loads(done(bank, "drift", "--hours", "1", "--json"))
    assert report["verdict"] == "none"
    assert {column["name"] for column in report["columns"]} >= set(names)
