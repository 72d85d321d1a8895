"""Write rows to a CSV, gzipped CSV or Parquet file, without loss of precision."""

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
    """Check that the suffix of the name is that of a known format. Raises SettingsError."""
    if not path.name.endswith(SUFFIXES):
        raise SettingsError(
            f"{path}: the name decides the format; let it end in {', '.join(SUFFIXES)}"
        )


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write the file completely or not at all.

    Raises SettingsError for an unknown suffix, or when the file cannot be written.
    """
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
            # Without a name and a time in the gzip header, the same rows give the same bytes.
            gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) as file,
        ):
            pyarrow.csv.write_csv(table, file)
    else:
        pyarrow.csv.write_csv(table, part)
