"""Sound data: the packaged sample, CSV in its dialects, and Parquet."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fraudops.datasets import Dataset, load, packaged_sample
from fraudops.datasets.writing import write_frame
from fraudops.errors import DataError, SettingsError
from fraudops.schema import FeatureSchema, load_schema


def test_the_sample_is_the_default_and_is_called_a_sample(sample: Dataset) -> None:
    about = packaged_sample()
    assert (len(sample), sample.frauds) == (25_507, 332)
    assert sample.sample
    assert sample.source == "packaged sample"
    assert sample.prevalence == about.prevalence == 0.001727
    assert sample.digest == about.sha256 == hashlib.sha256(about.path.read_bytes()).hexdigest()


def test_the_sample_carries_its_attribution_and_licence() -> None:
    about = packaged_sample()
    text = (about.path.parent / "ATTRIBUTION.md").read_text()
    assert about.licence in text
    assert "Dal Pozzolo" in text
    assert "Université Libre de Bruxelles" in text
    assert "sample" in text


def test_a_copy_of_the_sample_is_still_called_a_sample(tmp_path: Path, sample: Dataset) -> None:
    copy = tmp_path / "creditcard.csv.gz"
    copy.write_bytes(packaged_sample().path.read_bytes())
    loaded = load(copy)
    assert loaded.sample
    assert "packaged sample" in loaded.source
    assert loaded.prevalence == sample.prevalence


def test_columns_have_the_schemas_order_and_types(sample: Dataset) -> None:
    assert tuple(sample.frame.columns) == load_schema().columns
    assert sample.x.shape == (25_507, 29)
    assert sample.x.dtype == np.float64
    assert sample.y.dtype == np.int8
    assert np.array_equal(sample.amount, sample.x[:, 28])


def test_a_given_prevalence_overrides_the_samples() -> None:
    assert load(prevalence=0.01).prevalence == 0.01


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, 17.0, float("nan")])
def test_a_prevalence_that_is_no_share_is_refused(prevalence: float) -> None:
    with pytest.raises(SettingsError, match="between 0 and 1"):
        load(prevalence=prevalence)


def test_a_schema_that_is_not_the_samples_needs_a_file(bank: FeatureSchema) -> None:
    with pytest.raises(DataError, match="--data FILE"):
        load(schema=bank)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_written_file_is_read_back_exactly(made: Dataset, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_frame(made.frame, path)
    loaded = load(path, made.schema)
    pd.testing.assert_frame_equal(loaded.frame, made.frame, check_exact=True)
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (loaded.source, loaded.prevalence, loaded.sample) == (str(path), None, False)


def test_the_format_is_known_by_content_not_by_name(
    made: Dataset, lines: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert load(path, made.schema).frame.equals(made.frame)


def _quoted(lines: list[str]) -> str:
    return "\n".join(
        ",".join(f'"{cell.strip(chr(34))}"' for cell in line.split(",")) for line in lines
    )


@pytest.mark.parametrize(
    "dialect",
    [
        pytest.param(lambda lines: "\n".join(lines), id="no line break at the end"),
        pytest.param(lambda lines: "\r\n".join(lines) + "\r\n", id="Windows line breaks"),
        pytest.param(lambda lines: "\ufeff" + "\n".join(lines), id="byte order mark"),
        pytest.param(lambda lines: "\n\n" + "\n\n".join(lines) + "\n\n\n", id="blank lines"),
        pytest.param(_quoted, id="quoted numbers, as in the official file"),
        pytest.param(
            lambda lines: "\n".join(
                line.replace(",", " , ") if number else line for number, line in enumerate(lines)
            ),
            id="spaces",
        ),
    ],
)
def test_every_csv_dialect_gives_the_same_rows(
    made: Dataset, lines: list[str], tmp_path: Path, dialect
) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "rows.csv"
    path.write_bytes(dialect(lines).encode())
    assert load(path, made.schema).frame.equals(made.frame)


def test_columns_may_stand_in_any_order(made: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_frame(made.frame[list(reversed(made.frame.columns))], path)
    assert load(path, made.schema).frame.equals(made.frame)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_unsorted_rows_are_sorted_and_rows_of_one_time_keep_their_order(
    made: Dataset, tmp_path: Path, suffix: str
) -> None:
    frame = made.frame.copy()
    frame["seconds"] = np.repeat(np.arange(30.0)[::-1], 10)
    path = tmp_path / f"rows{suffix}"
    write_frame(frame, path)
    expected = frame.iloc[np.argsort(frame["seconds"].to_numpy(), kind="stable")].reset_index(
        drop=True
    )
    assert load(path, made.schema).frame.equals(expected)


def test_parquet_may_hold_whole_numbers_and_booleans(made: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    made.frame.astype({"seconds": "int64", "is_fraud": "bool", "velocity": "float64"}).to_parquet(
        path, index=False
    )
    assert load(path, made.schema).frame.equals(made.frame)
