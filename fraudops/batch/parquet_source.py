"""Reads a Parquet file in pieces of `chunk_rows` rows each.

The pieces do not depend on the row groups of the file.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from fraudops.batch.rows import BadRow, Matrix, RowChunk, first_fault, kept_columns, wrong_values
from fraudops.datasets.header import check_carries
from fraudops.datasets.parquet_file import check_type
from fraudops.errors import DataError
from fraudops.schema import FeatureSchema


class ParquetSource:
    """A Parquet file as pieces.

    Raises DataError for a file that is damaged, lacks a column, or has a column of another type.
    """

    place = "row"

    def __init__(
        self, path: Path, schema: FeatureSchema, keep: Sequence[str], chunk_rows: int
    ) -> None:
        self.path, self._schema, self._chunk_rows = path, schema, chunk_rows
        with self._opened() as file:
            present, metadata = file.schema_arrow, file.metadata
            self.size, groups = (
                int(metadata.num_rows),
                [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)],
            )
        check_carries(present.names, schema.names, str(path))
        for name in schema.names:
            check_type(present.field(name).type, name, path)
        self.keep = kept_columns(present.names, keep, str(path))
        self.pieces = -(-self.size // chunk_rows)
        self._ends = np.cumsum(groups, dtype=np.int64)
        self.kept_schema = pa.schema(
            [(name, _plain(present.field(name).type)) for name in self.keep]
        )

    def read(self, pieces: range) -> Iterator[RowChunk]:
        """Yield the rows of these pieces in order. Raises DataError."""
        for number, batch in zip(pieces, self._batches(pieces), strict=True):
            yield self._piece(number, batch)

    def end_of(self, piece: int) -> int:
        """Return the number of rows from the start of the file to the end of the piece."""
        return min((piece + 1) * self._chunk_rows, self.size)

    def _batches(self, pieces: range) -> Iterator[pa.RecordBatch | pa.Table]:
        """Yield one table for each piece.

        Arrow ends its batches at row groups, so a piece may consist of several of them. The rows of
        a piece are the same wherever the reading begins.
        """
        row = pieces.start * self._chunk_rows
        # Start at the row group of the first row: those before it are not read.
        group = int(np.searchsorted(self._ends, row, side="right"))
        skip = row - (int(self._ends[group - 1]) if group else 0)
        columns = list(dict.fromkeys([*self._schema.names, *self.keep]))
        pending: list[pa.RecordBatch] = []
        sizes = [self.end_of(piece) - piece * self._chunk_rows for piece in pieces]
        with self._opened() as file:
            if not sizes:
                return
            for batch in file.iter_batches(
                self._chunk_rows, row_groups=list(range(group, len(self._ends))), columns=columns
            ):
                batch, skip = batch.slice(min(skip, len(batch))), skip - min(skip, len(batch))
                while sizes and len(batch) and sum(map(len, pending)) + len(batch) >= sizes[0]:
                    taken = sizes.pop(0) - sum(map(len, pending))
                    yield pa.Table.from_batches([*pending, batch.slice(0, taken)])
                    batch, pending = batch.slice(taken), []
                if not sizes:
                    return
                if len(batch):
                    pending.append(batch)
        raise DataError(f"{self.path}: the file changed while it was read; start again")

    def _piece(self, number: int, batch: pa.Table) -> RowChunk:
        """Divide the rows of a piece into valid rows, as a matrix, and bad rows."""
        x: Matrix = np.empty((len(batch), len(self._schema.features)))
        for position, name in enumerate(self._schema.names):
            x[:, position] = batch.column(name).cast(pa.float64(), safe=False).to_numpy()
        wrong = wrong_values(x, self._schema)
        at_fault = np.flatnonzero(wrong.any(axis=1))
        rows = batch.take(at_fault).to_pylist() if len(at_fault) else []
        first = number * self._chunk_rows + 1
        bad = [
            BadRow(
                first + index,
                *first_fault(x[index], wrong[index], self._schema),
                json.dumps(row, default=str, ensure_ascii=False),
            )
            for index, row in zip(at_fault.tolist(), rows, strict=True)
        ]
        kept = batch.select(list(self.keep)).cast(self.kept_schema)
        if len(at_fault):
            valid = ~wrong.any(axis=1)
            x = x[valid]
            # Arrow counts no rows in a table without columns, and would refuse the mask.
            kept = kept.filter(pa.array(valid)) if self.keep else kept
        return RowChunk(number, x, kept, bad)

    @contextmanager
    def _opened(self) -> Iterator[pyarrow.parquet.ParquetFile]:
        try:
            # pre_buffer would hold a whole row group in memory, which may be the whole file.
            with pyarrow.parquet.ParquetFile(
                self.path, pre_buffer=False, buffer_size=1 << 20
            ) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self.path}: the Parquet file is damaged or cut off; copy or write it again"
            ) from error


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values for a dictionary type.

    The dictionaries differ from piece to piece, and so would the bytes of the output.
    """
    return kind.value_type if pa.types.is_dictionary(kind) else kind
