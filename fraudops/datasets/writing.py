"""Rows to a CSV, gzipped CSV or Parquet file, by the file's suffix; read back, they are the same rows."""

import gzip
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from fraudops.errors import SettingsError
from fraudops.files import atomic_file

SUFFIXES = (".csv", ".csv.gz", ".parquet")


def check_suffix(path: Path) -> None:
    """Raises SettingsError for a name from which no format follows."""
    if not path.name.endswith(SUFFIXES):
        raise SettingsError(
            f"{path}: the format follows from the name; let it end in {', '.join(SUFFIXES)}"
        )


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Writes whole or not at all. Raises SettingsError when the place cannot be written."""
    check_suffix(path)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as part:
            _write(table, part, path.name)
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be written ({error.strerror}); choose another --out"
        ) from error


def _write(table: pa.Table, part: Path, name: str) -> None:
    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(table, part)
    elif name.endswith(".gz"):
        with (
            part.open("wb") as raw,
            gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file,
        ):
            pyarrow.csv.write_csv(table, file)
    else:
        pyarrow.csv.write_csv(table, part)
