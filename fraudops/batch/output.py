"""Writes scores to CSV or Parquet, piece by piece, and joins the pieces.

The bytes of the joined file depend only on the pieces, not on shards or interruptions.
"""

import csv
import io
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from fraudops.batch.plan import whole
from fraudops.batch.rows import BadRow, RowChunk
from fraudops.errors import SettingsError

ADDED = pa.schema(
    [
        ("fraud_probability", pa.float64()),
        ("prediction", pa.int8()),
        ("model_version", pa.string()),
        ("threshold", pa.float64()),
    ]
)
CHUNK_BYTES = 1 << 20


class Output:
    """Writes the pieces of one output and joins them.

    Raises SettingsError when a kept column has a type that a CSV cannot hold.
    """

    def __init__(self, out: Path, kept: pa.Schema) -> None:
        self._parquet = out.name.endswith(".parquet")
        self.schema = pa.schema([*kept, *ADDED])
        if not self._parquet:
            self._header = _header(self.schema, out)

    def table(
        self, piece: RowChunk, probability: NDArray[np.float64], version: str, threshold: float
    ) -> pa.Table:
        """Return the rows to write: the kept columns and the scores of a piece.

        `probability` has the shape (n,). A row is predicted as fraud from `threshold` on.
        """
        count, prediction = len(probability), (probability >= threshold).astype(np.int8)
        constants = pa.repeat(pa.scalar(version), count), pa.repeat(pa.scalar(threshold), count)
        return pa.table(
            [*piece.kept.columns, probability, prediction, *constants], schema=self.schema
        )

    def write(self, table: pa.Table, path: Path) -> None:
        """Write a piece. A CSV piece has no header, so that pieces can be joined."""
        with whole(path) as temporary:
            if self._parquet:
                # One row group for each piece, which is joined as it is.
                pyarrow.parquet.write_table(table, temporary, row_group_size=max(1, len(table)))
            else:
                pyarrow.csv.write_csv(
                    table, temporary, pyarrow.csv.WriteOptions(include_header=False)
                )

    def join(self, paths: Sequence[Path], target: Path) -> None:
        """Join the pieces in this order."""
        if self._parquet:
            _join_parquet(paths, target, self.schema)
        else:
            _join_csv(paths, target, self._header)


class BadRows:
    """Writes rows that cannot be scored as CSV: place, column at fault, reason, and content."""

    def __init__(self, place: str) -> None:
        self._header = _csv([[place, "column", "reason", "content"]])

    def write(self, rows: Iterable[BadRow], path: Path) -> None:
        with whole(path) as temporary:
            temporary.write_bytes(
                _csv([[row.number, row.column or "", row.reason, row.content] for row in rows])
            )

    def join(self, paths: Sequence[Path], target: Path) -> None:
        _join_csv(paths, target, self._header)


def join_shards(paths: Sequence[Path], target: Path) -> None:
    """Join the complete outputs of all shards into the file that a run without shards writes."""
    if target.name.endswith(".parquet"):
        _join_parquet(paths, target, pyarrow.parquet.read_schema(paths[0]))
        return
    # Every shard of a CSV begins with the same header.
    with paths[0].open("rb") as file:
        header = file.readline()
    _join_csv(paths, target, header, skip=len(header))


def _join_parquet(paths: Sequence[Path], target: Path, schema: pa.Schema) -> None:
    with whole(target) as temporary, pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
        for path in paths:
            _append_row_groups(path, writer)


def _append_row_groups(path: Path, writer: pyarrow.parquet.ParquetWriter) -> None:
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as file:
        for index in range(file.metadata.num_row_groups):
            table = file.read_row_group(index)
            # A piece without valid rows adds no row group.
            if len(table):
                writer.write_table(table, row_group_size=len(table))


def _join_csv(paths: Sequence[Path], target: Path, header: bytes, skip: int = 0) -> None:
    with whole(target) as temporary, temporary.open("wb") as joined:
        joined.write(header)
        for path in paths:
            with path.open("rb") as file:
                file.seek(skip)
                shutil.copyfileobj(file, joined, CHUNK_BYTES)


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def _header(schema: pa.Schema, out: Path) -> bytes:
    """Return the header. Raises SettingsError for a column of a type that a CSV cannot hold."""
    header = io.BytesIO()
    try:
        pyarrow.csv.write_csv(schema.empty_table(), header)
    except pa.ArrowException as error:
        raise SettingsError(
            f"{out}: a column to keep has a type that a CSV cannot hold: "
            "keep another column, or let --out end in .parquet"
        ) from error
    return header.getvalue()
