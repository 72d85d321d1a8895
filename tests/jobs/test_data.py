"""`fraudops data` as a person runs it."""

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


def test_it_is_a_command_of_the_console_script() -> None:
    script = [str(Path(sys.executable).with_name("fraudops")), "data", "check", "/absent.csv"]
    told = subprocess.run(
        script,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 64
    assert "/absent.csv: no such file" in told.stderr
    assert "Traceback" not in told.stderr


def test_describe_calls_the_sample_a_sample(data: Caller) -> None:
    told = data("describe")
    assert told.returncode == 0, told.stderr
    assert "packaged sample (a sample of the public ULB data" in told.stdout
    assert "25,507" in told.stdout
    assert "332" in told.stdout
    assert "0.1727%" in told.stdout


def test_describe_as_json_is_one_object(data: Caller) -> None:
    found = json.loads(data("describe", "--json").stdout)
    assert (found["rows"], found["frauds"], found["prevalence"], found["sample"]) == (
        25_507,
        332,
        0.001727,
        True,
    )
    assert found["digest"] == packaged_sample().sha256
    assert found["schema"] == {"name": "ulb-credit-card", "fingerprint": load_schema().fingerprint}
    assert found["period"]["length"] == 172_787
    assert found["columns"]["Amount"]["maximum"] == 11_789.84
    assert found["columns"]["Amount"]["allowed"] == [0, 1_000_000]


def test_data_and_schema_come_from_the_environment_too(data: Caller, tmp_path: Path) -> None:
    rows = tmp_path / "bank.parquet"
    assert (
        data(
            "generate", "--out", rows, "--rows", "500", "--fraud-rate", "0.1", "--schema", BANK
        ).returncode
        == 0
    )
    told = data(
        "describe",
        "--json",
        "--prevalence",
        "0.02",
        FRAUDOPS_DATA=str(rows),
        FRAUDOPS_SCHEMA=str(BANK),
    )
    found = json.loads(told.stdout)
    assert (found["rows"], found["schema"]["name"], found["prevalence"], found["sample"]) == (
        500,
        "bank-five",
        0.02,
        False,
    )


def test_check_says_what_training_would_find_and_the_next_command(
    data: Caller, tmp_path: Path
) -> None:
    rows = tmp_path / "bank.csv"
    made = data("generate", "--out", rows, "--rows", "500", "--fraud-rate", "0.1", "--schema", BANK)
    assert "500 rows, 50 frauds, generated (seed 7)" in made.stderr
    told = data("check", rows, "--schema", BANK)
    assert told.returncode == 0, told.stderr
    assert "fits the schema bank-five: 500 rows, 50 frauds" in told.stdout
    assert f"fraudops train --data {rows} --schema {BANK}" in told.stdout
    found = json.loads(data("check", rows, "--schema", BANK, "--json").stdout)
    assert found["digest"] == hashlib.sha256(rows.read_bytes()).hexdigest()
    assert (
        sum(part["rows"] for part in found["split"].values())
        + found["dropped_ties"]
        + found["dropped_duplicates"]
        == 500
    )


def test_a_bad_file_ends_with_64_and_no_stack_trace(data: Caller, tmp_path: Path) -> None:
    rows = tmp_path / "bank.csv"
    data("generate", "--out", rows, "--rows", "500", "--fraud-rate", "0.1", "--schema", BANK)
    rows.write_text(rows.read_text() + "1,2,3,4,5,Mr [bold]Smith,0\n")
    told = data("check", rows, "--schema", BANK)
    assert told.returncode == 64
    assert (
        f"error: {rows}: line 502, column 'merchant_z': text where a number belongs" in told.stderr
    )
    assert "Smith" not in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stdout == ""


def test_generate_lays_a_drift_over_real_rows_and_writes_the_truth(
    data: Caller, tmp_path: Path
) -> None:
    rows, truth = tmp_path / "drifted.csv.gz", tmp_path / "truth.csv"
    told = data(
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
    assert told.returncode == 0, told.stderr
    assert "packaged sample under new-fraud-pattern drift" in told.stderr
    known = pd.read_csv(truth)
    assert known["drifted"].sum() == 50
    assert load(rows).frauds == 50 + (known["pattern"] == "fraud").sum()


def test_generate_repeats_itself_to_the_byte(data: Caller, tmp_path: Path) -> None:
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
    told = data("generate", *arguments)
    assert told.returncode == 64
    assert words in told.stderr


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
        told = data(*arguments)
        assert told.returncode == 0, told.stderr
        target = tmp_path / "data" / "creditcard.csv"
        assert target.read_bytes() == content
        assert f"fetched from {served.url}" in told.stderr
        assert f"fraudops train --data {target}" in told.stdout
        assert "already there" in data(*arguments).stderr
        assert len(served.ranges) == 1


def test_fetch_without_any_mirror_ends_with_75(data: Caller, tmp_path: Path) -> None:
    told = data(
        "fetch", "--mirror", f"http://127.0.0.1:{free_port()}/creditcard.csv", "--state", tmp_path
    )
    assert told.returncode == 75
    assert "no mirror gave the file" in told.stderr
    assert "Traceback" not in told.stderr


def test_fetch_puts_the_official_csv_under_no_other_suffix(data: Caller, tmp_path: Path) -> None:
    mirror = ("--mirror", f"http://127.0.0.1:{free_port()}/creditcard.csv")
    for name in ("rows.parquet", "rows.csv.gz", "rows"):
        told = data("fetch", *mirror, "--out", tmp_path / name, "--state", tmp_path)
        assert told.returncode == 64
        assert f"{name}: the official file is a CSV" in " ".join(told.stderr.split())
