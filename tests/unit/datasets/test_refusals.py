"""Every defect of a file is refused with the file, the place, and the remedy.

No refusal quotes a value.
"""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraudops.datasets import Dataset, load
from fraudops.errors import DataError
from fraudops.schema import FeatureSchema

SECRET = "4929123456781234"


def refusal(path: Path, schema: FeatureSchema) -> str:
    with pytest.raises(DataError) as error:
        load(path, schema)
    message = str(error.value)
    assert str(path) in message
    assert SECRET not in message
    return message


def with_cell(lines: list[str], line: int, column: str, text: str) -> str:
    """Return the file with one cell changed; `line` counts from 1, as an editor does."""
    header = [name.strip('"') for name in lines[0].split(",")]
    cells = lines[line - 1].split(",")
    cells[header.index(column)] = text
    return "\n".join([*lines[: line - 1], ",".join(cells), *lines[line:]])


@pytest.mark.parametrize(
    ("column", "text", "words"),
    [
        ("velocity", SECRET + " Main Street", "text where a number belongs; write it as 1234.5"),
        ("velocity", '"12,5"', "text where a number belongs"),
        ("velocity", "1_0", "text where a number belongs"),
        ("velocity", "0x1A", "text where a number belongs"),
        ("seconds", "2026-01-31 12:00:00", "a number of seconds"),
        ("is_fraud", "yes", "1 for a fraud and 0 for a genuine"),
        ("velocity", "", "missing (empty or NaN); fill it in or remove the row"),
        ("seconds", "NaN", "missing"),
        ("is_fraud", "null", "missing"),
        ("velocity", "inf", "infinite"),
        ("seconds", "-Infinity", "infinite"),
        ("velocity", "1e400", "infinite, or too large"),
        ("velocity", SECRET, "outside the schema's range of 0 to 100"),
        ("distance_z", "-30.5", "outside the schema's range of -30 to 30"),
        ("is_fraud", "2", "must be 0 (genuine) or 1 (fraud)"),
        ("is_fraud", "0.5", "must be 0 (genuine) or 1 (fraud)"),
    ],
)
def test_a_wrong_cell_is_named_by_line_and_column(
    lines: list[str], bank: FeatureSchema, tmp_path: Path, column: str, text: str, words: str
) -> None:
    path = tmp_path / "broken.csv"
    path.write_text(with_cell(lines, 17, column, text))
    message = refusal(path, bank)
    assert f"line 17, column {column!r}" in message
    assert words in message


def test_the_line_is_the_one_an_editor_shows_whatever_came_before(
    lines: list[str], bank: FeatureSchema, tmp_path: Path
) -> None:
    path = tmp_path / "broken.csv"
    text = with_cell(lines, 17, "velocity", "nan").splitlines()
    path.write_bytes("\r\n".join(["\ufeff", "", *text[:5], "", "", *text[5:]]).encode())
    assert "line 21, column 'velocity'" in refusal(path, bank)


def test_a_cell_over_two_lines_counts_as_two(
    lines: list[str], bank: FeatureSchema, tmp_path: Path
) -> None:
    path = tmp_path / "broken.csv"
    text = with_cell(lines, 17, "velocity", "fast").splitlines()
    path.write_text(with_cell(text, 5, "velocity", '"\n5"'))
    assert "line 18, column 'velocity'" in refusal(path, bank)


def test_the_line_is_counted_in_the_unsorted_file(
    lines: list[str], bank: FeatureSchema, tmp_path: Path
) -> None:
    path = tmp_path / "broken.csv"
    path.write_text(with_cell([lines[0], *reversed(lines[1:])], 40, "velocity", "nan"))
    assert "line 40, column 'velocity'" in refusal(path, bank)


def test_the_first_of_several_faults_is_named_and_equal_faults_are_counted(
    lines: list[str], bank: FeatureSchema, tmp_path: Path
) -> None:
    path = tmp_path / "broken.csv"
    text = with_cell(lines, 90, "seconds", "inf")
    for line in (30, 31, 60):
        text = with_cell(text.splitlines(), line, "merchant_z", "99")
    path.write_text(text)
    message = refusal(path, bank)
    assert "line 30, column 'merchant_z'" in message
    assert "(3 rows of this column have this fault)" in message


@pytest.mark.parametrize(("cut", "count"), [(-1, 6), (None, 8)])
def test_a_line_of_another_length_is_named(
    lines: list[str], bank: FeatureSchema, tmp_path: Path, cut: int | None, count: int
) -> None:
    path = tmp_path / "broken.csv"
    lines[24] = ",".join(lines[24].split(",")[:cut]) if cut else f"{lines[24]},{SECRET}"
    path.write_text("\n".join(lines))
    assert f"line 25: {count} values where the header names 7 columns" in refusal(path, bank)


def test_an_unclosed_quote_is_refused(
    lines: list[str], bank: FeatureSchema, tmp_path: Path
) -> None:
    path = tmp_path / "broken.csv"
    path.write_text(with_cell(lines, 17, "velocity", '"5'))
    assert "line 17" in refusal(path, bank)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            "seconds,value_eur,velocity,distance_z,device_risk,is_fraud",
            "column 'merchant_z' is missing; add it",
        ),
        (
            "seconds,is_fraud,velocity",
            "columns 'value_eur', 'distance_z', 'device_risk', 'merchant_z' are missing; add them",
        ),
        (
            "seconds,value_eur,velocity,distance_z,device_risk,merchant_z,is_fraud,note",
            "column 'note' is not in the schema 'bank-five'; remove it",
        ),
        (
            ",seconds,value_eur,velocity,distance_z,device_risk,merchant_z,is_fraud",
            "column (one without a name) is not in the schema",
        ),
        (
            "seconds,value_eur,velocity,distance_z,device_risk,merchant_z,is_fraud,velocity",
            "'velocity' occurs twice",
        ),
        (
            "seconds,value_eur, Velocity,distance_z,device_risk,merchant_z,is_fraud",
            "' Velocity' is not 'velocity'",
        ),
        (
            "seconds;value_eur;velocity;distance_z;device_risk;merchant_z;is_fraud",
            "separated by semicolons; save the file with commas",
        ),
        ("seconds\tvalue_eur\tvelocity", "separated by tabs"),
        (f"1,{SECRET},3,4,5,6,0", "no header: the first line holds numbers"),
        (f"Mr Smith {SECRET},Main Street", "names none of the schema's columns"),
    ],
)
def test_wrong_columns_are_named(
    lines: list[str], bank: FeatureSchema, tmp_path: Path, header: str, words: str
) -> None:
    path = tmp_path / "broken.csv"
    path.write_text("\n".join([header, *lines[1:]]))
    message = refusal(path, bank)
    assert "line 1" in message
    assert words in message


def _directory(path: Path, _text: bytes) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("write", "words"),
    [
        pytest.param(_directory, "a folder", id="a folder"),
        pytest.param(lambda _path, _text: None, "no such file", id="nothing"),
        pytest.param(
            lambda path, _text: path.write_bytes(b""), "the file is empty", id="an empty file"
        ),
        pytest.param(
            lambda path, _text: path.write_bytes(b"\n\n"), "the file is empty", id="blank lines"
        ),
        pytest.param(
            lambda path, _text: path.write_bytes(gzip.compress(b"")),
            "the file is empty",
            id="an empty gzip",
        ),
        pytest.param(
            lambda path, text: path.write_bytes(text.split(b"\n")[0]),
            "0 rows are too few",
            id="a header alone",
        ),
        pytest.param(
            lambda path, text: path.write_bytes(b"\n".join(text.split(b"\n")[:60])),
            "59 rows are too few",
            id="too few rows",
        ),
        pytest.param(
            lambda path, text: path.write_bytes(gzip.compress(text)[:-400]),
            "ends early; it was cut off",
            id="a truncated gzip",
        ),
        pytest.param(
            lambda path, text: path.write_bytes(gzip.compress(text)[:6]),
            "ends early; it was cut off",
            id="a gzip of six bytes",
        ),
        pytest.param(
            lambda path, text: path.write_bytes(_damaged(gzip.compress(text))),
            "the gzip file is damaged",
            id="a damaged gzip",
        ),
        pytest.param(
            lambda path, text: path.write_bytes(text.decode().encode("utf-16")),
            "binary or UTF-16",
            id="UTF-16",
        ),
        pytest.param(
            lambda path, _text: path.write_bytes(bytes(range(256)) * 9), "not a CSV", id="binary"
        ),
        pytest.param(
            lambda path, _text: path.write_bytes(b"PK\x03\x04rest"), "zip or Excel", id="Excel"
        ),
        pytest.param(
            lambda path, _text: path.write_bytes(b"PAR1 not really"),
            "damaged or cut off",
            id="a damaged Parquet",
        ),
        pytest.param(
            lambda path, _text: path.write_text("<!doctype html>\n<html>"),
            "names none of the schema's columns",
            id="a web page",
        ),
    ],
)
def test_a_file_of_another_kind_is_refused(
    lines: list[str],
    bank: FeatureSchema,
    tmp_path: Path,
    write: Callable[[Path, bytes], object],
    words: str,
) -> None:
    path = tmp_path / "broken.csv"
    write(path, "\n".join(lines).encode())
    assert words in refusal(path, bank)


def _damaged(data: bytes) -> bytes:
    return data[:200] + bytes(byte ^ 0xFF for byte in data[200:260]) + data[260:]


@pytest.mark.parametrize(
    ("label", "words"), [(0, "no fraud among 300 rows"), (1, "all 300 rows are frauds")]
)
def test_rows_of_one_class_are_refused(
    made: Dataset, tmp_path: Path, label: int, words: str
) -> None:
    path = tmp_path / "one.parquet"
    made.frame.assign(is_fraud=label).to_parquet(path, index=False)
    assert words in refusal(path, made.schema)


@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "missing"), (np.inf, "infinite"), (100.5, "outside the schema's range")],
)
def test_a_wrong_cell_of_a_parquet_is_named_by_row_and_column(
    made: Dataset, tmp_path: Path, value: float, words: str
) -> None:
    path = tmp_path / "broken.parquet"
    frame = made.frame.copy()
    frame.loc[11, "velocity"] = value
    frame.to_parquet(path, index=False)
    message = refusal(path, made.schema)
    assert "row 12, column 'velocity'" in message
    assert words in message


def test_a_parquet_of_texts_or_timestamps_is_refused(made: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    made.frame.assign(velocity="fast").to_parquet(path, index=False)
    assert "column 'velocity' holds" in refusal(path, made.schema)
    made.frame.assign(seconds=pd.Timestamp("2026-01-31")).to_parquet(path, index=False)
    assert "column 'seconds' holds timestamp" in refusal(path, made.schema)


def test_a_truncated_parquet_is_refused(made: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "broken.parquet"
    made.frame.to_parquet(path, index=False)
    path.write_bytes(path.read_bytes()[:-700])
    assert "damaged or cut off" in refusal(path, made.schema)
