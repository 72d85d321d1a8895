"""Loads a file as a Dataset, or raises an error that names the place and the remedy."""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from fraudops.canonical import sha256_file
from fraudops.datasets.checks import Columns, first_fault, shortage
from fraudops.datasets.csv_file import line_of, read_csv
from fraudops.datasets.dataset import Dataset, canonical_frame
from fraudops.datasets.parquet_file import MAGIC, read_parquet
from fraudops.errors import DataError, SettingsError
from fraudops.schema import FeatureSchema, load_schema

ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class Sample:
    """The packaged sample, described by `sample/about.yaml`."""

    path: Path
    source: str
    sha256: str
    prevalence: float
    licence: str


def packaged_sample() -> Sample:
    folder = Path(str(resources.files("fraudops.datasets"))) / "sample"
    about: dict[str, Any] = yaml.safe_load((folder / "about.yaml").read_text())
    return Sample(
        folder / about["file"],
        about["source"],
        about["sha256"],
        about["prevalence"],
        about["licence"],
    )


def load(
    source: str | Path | None = None,
    schema: FeatureSchema | None = None,
    prevalence: float | None = None,
) -> Dataset:
    """Load a CSV, gzipped CSV or Parquet file, check every value, and sort the rows by time.

    The content decides about the format, not the name. The defaults are the packaged sample, the
    schema of the ULB data, and for the sample its natural prevalence. Any other file has no
    prevalence by default.

    Raises DataError, which names the file, row, column and remedy, and SettingsError for a
    prevalence that is not a share.
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise SettingsError(
            "prevalence must lie between 0 and 1: the natural share of fraud, such as 0.0017"
        )
    schema, sample = schema or load_schema(), packaged_sample()
    if source is None and set(schema.columns) != set(load_schema().columns):
        raise DataError(
            f"the packaged sample does not have the columns of the schema {schema.name!r}; "
            "give a file that has them, with --data FILE"
        )
    path = sample.path if source is None else Path(source)
    columns = _read(path, schema)
    digest = sha256_file(path)
    # A copy of the sample counts as the sample, wherever it is.
    if digest == sample.sha256:
        name = sample.source if source is None else f"{path} ({sample.source})"
        return Dataset(
            canonical_frame(columns, schema),
            schema,
            name,
            digest,
            prevalence or sample.prevalence,
            sample=True,
        )
    return Dataset(canonical_frame(columns, schema), schema, str(path), digest, prevalence)


def _read(path: Path, schema: FeatureSchema) -> Columns:
    start = _first_bytes(path)
    if start == ZIP:
        raise DataError(f"{path}: a zip or Excel file; unpack it, or save the sheet as CSV")
    parquet = start == MAGIC
    columns = read_parquet(path, schema) if parquet else read_csv(path, schema)
    fault = first_fault(columns, schema)
    if fault is not None:
        place = f"row {fault.row + 1}" if parquet else f"line {line_of(path, fault.row)}"
        more = f" ({fault.rows:,} rows of this column have this fault)" if fault.rows > 1 else ""
        raise DataError(f"{path}: {place}, column {fault.column!r}: {fault.text}{more}")
    lacking = shortage(columns, schema)
    if lacking:
        raise DataError(f"{path}: {lacking}")
    return columns


def _first_bytes(path: Path) -> bytes:
    if path.is_dir():
        raise DataError(f"{path}: a folder; give a CSV or Parquet file")
    try:
        with path.open("rb") as file:
            return file.read(4)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: no such file; give the path of a CSV or Parquet file, "
            "or leave --data out for the packaged sample"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
