"""The schema is data: the whole road of a model whose five columns are a bank's own."""

import json
from pathlib import Path

import httpx
import pytest

from fraudops.schema import load_schema
from tests.conftest import Platform, whole_platform

BANK = Path(__file__).parents[1] / "data" / "bank.yaml"


def done(platform: Platform, *arguments: str) -> str:
    told = platform.run(*arguments)
    assert told.returncode == 0, told.stderr
    return told.stdout


def test_a_model_of_other_columns_walks_the_whole_road(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    data, names = str(tmp_path / "bank.csv"), load_schema(BANK).names
    with whole_platform(tmp_path_factory.mktemp("bank") / "state") as platform:
        done(platform, "data", "generate", "--rows", "12000", "--fraud-rate", "0.02", "--schema", str(BANK), "--out", data)
        given = ("--data", data, "--schema", str(BANK))
        version = str(json.loads(done(platform, "train", *given, "--json"))["version"])
        assert json.loads(done(platform, "validate", "--version", version, *given, "--json"))["passed"] is True
        done(platform, "promote", "--version", version, "--alias", "production")

        row = dict.fromkeys(names, 1.0)
        answer = httpx.post(f"{platform.inference_url}/predict", json=row)
        assert answer.status_code == 200, answer.text
        refused = httpx.post(f"{platform.inference_url}/predict", json=row | {"V1": 0.0})
        assert refused.status_code == 422
        assert "V1" in refused.text
        assert names[0] in httpx.get(f"{platform.inference_url}/openapi.json").text

        done(platform, "simulate", "--rows", "800", *given)
        report = json.loads(done(platform, "drift", "--hours", "1", "--json"))
        assert report["verdict"] == "none"
        assert {column["name"] for column in report["columns"]} >= set(names)
