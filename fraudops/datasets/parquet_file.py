"""Reads a Parquet file into columns of float64."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from fraudops.datasets.checks import Columns
from fraudops.datasets.header import check_header
from fraudops.errors import DataError
from fraudops.schema import FeatureSchema

MAGIC = b"PAR1"


def read_parquet(path: Path, schema: FeatureSchema) -> Columns:
    """Return the columns (rows,) by name, with NaN for a null.

    Raises DataError, which names the column.
    """
    try:
        present = pyarrow.parquet.read_schema(path)
        check_header(present.names, schema, str(path))
        for name in schema.columns:
            check_type(present.field(name).type, name, path)
        table = pyarrow.parquet.read_table(path, columns=list(schema.columns))
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: the Parquet file is damaged or cut off; copy or write it again"
        ) from error
    return {
        name: table.column(name).cast(pa.float64(), safe=False).to_numpy()
        for name in schema.columns
    }


def check_type(kind: pa.DataType, name: str, path: Path) -> None:
    """Check that the column holds numbers. Raises DataError."""
    types = pa.types
    if not (
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
    ):
        raise DataError(
            f"{path}: the column {name!r} holds {kind}, not numbers; "
            "write it as float64 (a time as seconds)"
        )
