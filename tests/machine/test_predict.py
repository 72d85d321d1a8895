"""`fraudops predict` with the running product, and its messages without one."""

import json
from importlib import resources
from pathlib import Path

import pytest

from fraudops.datasets import load, split
from jobs.predict import command
from tests.support.commands import Caller
from tests.support.platform import Platform
from tests.support.processes import free_port

KNOWN = json.loads(
    resources.files("fraudops.datasets").joinpath("sample/transaction.json").read_text()
)
SECRET = 4929.12345


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    return Caller("predict", command, monkeypatch, capsys)


def test_the_packaged_transaction_is_a_fraud_of_the_samples_test_part() -> None:
    test = split(load()).test
    rows = [index for index, row in enumerate(test.x.tolist()) if row == list(KNOWN.values())]
    assert tuple(KNOWN) == test.schema.names
    assert len(rows) == 1
    assert test.y[rows[0]] == 1


def test_the_packaged_transaction_is_decided_as_fraud(serving: Platform) -> None:
    result = serving.run("predict")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("FRAUD  probability ")
    assert "prediction_id" in result.stdout
    answer = json.loads(serving.run("predict", "--json").stdout)
    assert set(answer) == {
        "prediction_id",
        "fraud_probability",
        "prediction",
        "model_version",
        "threshold",
    }
    assert answer["prediction"] == 1
    assert answer["fraud_probability"] > answer["threshold"]


def test_a_row_of_the_test_part_is_printed_with_its_label(serving: Platform) -> None:
    answer = json.loads(serving.run("predict", "--row", "0", "--json").stdout)
    assert (answer["label"], answer["prediction"]) == (0, 0)
    assert "the label is genuine" in serving.run("predict", "--row", "0").stdout


def test_a_list_is_scored_in_its_order(serving: Platform, tmp_path: Path) -> None:
    genuine = KNOWN | {name: 0.0 for name in KNOWN if name != "Amount"}
    file = tmp_path / "rows.json"
    file.write_text(json.dumps([KNOWN, genuine, KNOWN]))
    batch = json.loads(serving.run("predict", str(file), "--json").stdout)
    assert [answer["prediction"] for answer in batch["predictions"]] == [1, 0, 1]
    assert "FRAUD" in serving.run("predict", str(file)).stdout


def test_a_transaction_that_the_service_refuses_is_named_by_field_without_values(
    serving: Platform, tmp_path: Path
) -> None:
    file = tmp_path / "row.json"
    file.write_text(
        json.dumps(
            {name: value for name, value in KNOWN.items() if name != "V3"}
            | {"V1": SECRET, "colour": 1}
        )
    )
    result = serving.run("predict", str(file))
    assert result.returncode == 64
    for words in ("V3 is missing", "V1 must be at most 500", "colour is not a field"):
        assert words in result.stderr
    assert str(SECRET) not in result.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not valid JSON"),
        ('{"V1": NaN}', "not valid JSON"),
        ('{"V1": 4929.12345', "not valid JSON"),
        ("4929.12345", "expected one transaction"),
        ("[4929.12345]", "expected one transaction"),
    ],
)
def test_an_input_that_is_no_transaction_is_refused_without_quoting_it(
    predict: Caller, content: str, words: str
) -> None:
    result = predict("-", stdin=content)
    assert result.returncode == 64
    assert f"standard input: {words}" in result.stderr
    assert str(SECRET) not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.json"], "absent.json: cannot be read (No such file or directory)"),
        (["-", "--row", "3"], "give a FILE or --row, not both"),
        (["--row", "5101"], "has rows 0 to 5100"),
        (["--url", "inference:8000"], "give it as http://HOST:PORT"),
        (["--state", "/absent"], "run `fraudops up --detach`"),
    ],
)
def test_wrong_usage_ends_with_64(predict: Caller, arguments: list[str], words: str) -> None:
    result = predict(*arguments)
    assert result.returncode == 64
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_service_that_is_away_ends_with_75(predict: Caller) -> None:
    result = predict("--url", f"http://127.0.0.1:{free_port()}")
    assert result.returncode == 75
    assert "does not answer (ConnectError)" in result.stderr
    assert "Traceback" not in result.stderr
