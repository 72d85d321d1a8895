"""`fraudops data`: describe, check, generate and fetch."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fraudops.datasets import load, packaged_sample
from fraudops.schema import load_schema
from jobs.data import command
from tests.support.commands import Caller
from tests.support.file_server import Served, serve
from tests.support.processes import free_port

BANK = Path(__file__).parents[1] / "data" / "bank.yaml"


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    return Caller("data", command, monkeypatch, capsys)


def test_data_is_a_command_of_the_console_script() -> None:
    script = [str(Path(sys.executable).with_name("fraudops")), "data", "check", "/absent.csv"]
    result = subprocess.run(
        script,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 64
    assert "/absent.csv: no such file" in result.stderr
    assert "Traceback" not in result.stderr


def test_describe_calls_the_sample_a_sample(data: Caller) -> None:
    result = data("describe")
    assert result.returncode == 0, result.stderr
    assert "packaged sample (a sample of the public ULB data" in result.stdout
    assert "25,507" in result.stdout
    assert "332" in result.stdout
    assert "0.1727%" in result.stdout


def test_describe_as_json_is_one_object(data: Caller) -> None:
    report = json.loads(data("describe", "--json").stdout)
    assert (report["rows"], report["frauds"], report["prevalence"], report["sample"]) == (
        25_507,
        332,
        0.001727,
        True,
    )
    assert report["digest"] == packaged_sample().sha256
    assert report["schema"] == {"name": "ulb-credit-card", "fingerprint": load_schema().fingerprint}
    assert report["period"]["length"] == 172_787
    assert report["columns"]["Amount"]["maximum"] == 11_789.84
    assert report["columns"]["Amount"]["allowed"] == [0, 1_000_000]


def test_data_and_schema_come_from_the_environment_too(data: Caller, tmp_path: Path) -> None:
    rows = tmp_path / "bank.parquet"
    assert (
        data(
            "generate", "--out", rows, "--rows", "500", "--fraud-rate", "0.1", "--schema", BANK
        ).returncode
        == 0
    )
    result = data(
        "describe",
        "--json",
        "--prevalence",
        "0.02",
        FRAUDOPS_DATA=str(rows),
        FRAUDOPS_SCHEMA=str(BANK),
    )
    report = json.loads(result.stdout)
    assert (report["rows"], report["schema"]["name"], report["prevalence"], report["sample"]) == (
        500,
        "bank-five",
        0.02,
        False,
    )


def test_check_shows_the_data_as_training_reads_it_and_the_next_command(
    data: Caller, tmp_path: Path
) -> None:
    rows = tmp_path / "bank.csv"
    made = data("generate", "--out", rows, "--rows", "500", "--fraud-rate", "0.1", "--schema", BANK)
    assert "500 rows, 50 frauds, generated (seed 7)" in made.stderr
    result = data("check", rows, "--schema", BANK)
    assert result.returncode == 0, result.stderr
    assert "fits the schema bank-five: 500 rows, 50 frauds" in result.stdout
    assert f"fraudops train --data {rows} --schema {BANK}" in result.stdout
    report = json.loads(data("check", rows, "--schema", BANK, "--json").stdout)
    assert report["digest"] == hashlib.sha256(rows.read_bytes()).hexdigest()
    assert (
        sum(part["rows"] for part in report["split"].values())
        + report["dropped_ties"]
        + report["dropped_duplicates"]
        == 500
    )


def test_a_bad_file_ends_with_64_and_no_stack_trace(data: Caller, tmp_path: Path) -> None:
    rows = tmp_path / "bank.csv"
    data("generate", "--out", rows, "--rows", "500", "--fraud-rate", "0.1", "--schema", BANK)
    rows.write_text(rows.read_text() + "1,2,3,4,5,Mr [bold]Smith,0\n")
    result = data("check", rows, "--schema", BANK)
    assert result.returncode == 64
    assert (
        f"error: {rows}: line 502, column 'merchant_z': text where a number belongs"
        in result.stderr
    )
    assert "Smith" not in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_generate_applies_a_drift_to_real_rows_and_writes_the_truth(
    data: Caller, tmp_path: Path
) -> None:
    rows, truth = tmp_path / "drifted.csv.gz", tmp_path / "truth.csv"
    result = data(
        "generate",
        "--data",
        "sample",
        "--drift",
        "new-fraud-pattern",
        "--rows",
        "5000",
        "--out",
        rows,
        "--truth",
        truth,
    )
    assert result.returncode == 0, result.stderr
    assert "packaged sample under new-fraud-pattern drift" in result.stderr
    truths = pd.read_csv(truth)
    assert truths["drifted"].sum() == 50
    assert load(rows).frauds == 50 + (truths["pattern"] == "fraud").sum()


def test_generate_writes_the_same_bytes_again(data: Caller, tmp_path: Path) -> None:
    first, second = tmp_path / "first.csv.gz", tmp_path / "second.csv.gz"
    for path in (first, second):
        assert (
            data("generate", "--rows", "300", "--drift", "covariate", "--out", path).returncode == 0
        )
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "rows.xlsx"], "let it end in .csv, .csv.gz, .parquet"),
        (["--out", "rows.csv", "--data", "sample"], "--data without --drift"),
        (["--out", "rows.csv", "--drift", "gradual"], "Invalid value for '--drift'"),
        (
            ["--out", "rows.csv", "--rows", "300", "--schema", "absent.yaml"],
            "absent.yaml: the schema cannot be read",
        ),
        (["--out", "/dev/null/rows.csv"], "choose another --out"),
        ([], "Missing option '--out'"),
    ],
)
def test_wrong_usage_of_generate_ends_with_64(
    data: Caller, arguments: list[str], words: str
) -> None:
    result = data("generate", *arguments)
    assert result.returncode == 64
    assert words in result.stderr


def test_fetch_puts_the_file_into_the_state_folder_and_names_the_next_command(
    data: Caller, tmp_path: Path
) -> None:
    content = b"Time,V1\n" * 100_000
    with serve(Served(content)) as served:
        arguments = (
            "fetch",
            "--mirror",
            served.url,
            "--sha256",
            hashlib.sha256(content).hexdigest(),
            "--state",
            tmp_path,
        )
        result = data(*arguments)
        assert result.returncode == 0, result.stderr
        target = tmp_path / "data" / "creditcard.csv"
        assert target.read_bytes() == content
        assert f"fetched from {served.url}" in result.stderr
        assert f"fraudops train --data {target}" in result.stdout
        assert "already there" in data(*arguments).stderr
        assert len(served.ranges) == 1


def test_a_presigned_url_comes_from_the_environment_and_its_signature_is_not_shown(
    data: Caller, tmp_path: Path
) -> None:
    content = b"Time,V1\n" * 1000
    with serve(Served(content)) as served:
        result = data(
            *("fetch", "--sha256", hashlib.sha256(content).hexdigest(), "--state", tmp_path),
            FRAUDOPS_DATA_URL=f"{served.url}?X-Amz-Signature=secret",
        )
    assert result.returncode == 0, result.stderr
    assert f"fetched from {served.url}," in result.stderr
    assert "secret" not in result.stdout + result.stderr


def test_fetch_without_any_mirror_ends_with_75(data: Caller, tmp_path: Path) -> None:
    result = data(
        "fetch", "--mirror", f"http://127.0.0.1:{free_port()}/creditcard.csv", "--state", tmp_path
    )
    assert result.returncode == 75
    assert "no mirror gave the file" in result.stderr
    assert "Traceback" not in result.stderr


def test_fetch_puts_the_official_csv_under_no_other_suffix(data: Caller, tmp_path: Path) -> None:
    mirror = ("--mirror", f"http://127.0.0.1:{free_port()}/creditcard.csv")
    for name in ("rows.parquet", "rows.csv.gz", "rows"):
        result = data("fetch", *mirror, "--out", tmp_path / name, "--state", tmp_path)
        assert result.returncode == 64
        assert f"{name}: the official file is a CSV" in " ".join(result.stderr.split())
