"""The schema is data: the whole road of a model whose five columns are a bank's own."""

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
    """The product of a bank: service and shipper of its own, on the PostgreSQL and the MLflow of
    all tests.
    """
    environment = {"MLFLOW_TRACKING_URI": mlflow_url, "FRAUDOPS_MODEL_NAME": "bank"}
    service = Service(tmp_path / "state", environment=environment).start()
    service.state.admin_token.write_text(TOKEN)
    places = Endpoints(inference_url=service.url, database_url=database, mlflow_url=mlflow_url)
    service.state.endpoints.write_bytes(msgspec.json.encode(places))
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
    told = platform.run(*arguments)
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_a_model_of_other_columns_walks_the_whole_road(bank: Platform, tmp_path: Path) -> None:
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
    given = ("--data", data, "--schema", str(BANK))
    version = str(json.loads(done(bank, "train", *given, "--json"))["version"])
    assert (
        json.loads(done(bank, "validate", "--version", version, *given, "--json"))["passed"] is True
    )
    done(bank, "promote", "--version", version, "--alias", "production")

    row = dict.fromkeys(names, 1.0)
    answer = HTTP.post(f"{bank.inference_url}/predict", json=row)
    assert answer.status_code == 200, answer.text
    refused = HTTP.post(f"{bank.inference_url}/predict", json=row | {"V1": 0.0})
    assert refused.status_code == 422
    assert "V1" in refused.text
    assert names[0] in HTTP.get(f"{bank.inference_url}/openapi.json").text

    done(bank, "simulate", "--rows", "800", *given)
    report = json.loads(done(bank, "drift", "--hours", "1", "--json"))
    assert report["verdict"] == "none"
    assert {column["name"] for column in report["columns"]} >= set(names)
