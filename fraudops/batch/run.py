"""One run over a file: scores its pieces, then joins them to shards and the output.

A run that is killed at any moment and started again continues where it stopped, and writes the
same bytes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fraudops.batch.csv_source import CsvSource
from fraudops.batch.joining import clear, join, missing_shards
from fraudops.batch.model import BatchModel, BatchModels
from fraudops.batch.output import BadRows, Output
from fraudops.batch.parquet_source import ParquetSource
from fraudops.batch.plan import (
    BatchPlan,
    Counts,
    Layout,
    Summary,
    check_same,
    claim,
    load,
    part,
    store,
)
from fraudops.batch.rows import Matrix, RowChunk
from fraudops.datasets.loading import ZIP
from fraudops.datasets.parquet_file import MAGIC
from fraudops.errors import DataError

Source = CsvSource | ParquetSource
# Called after every piece with the amount of input done, the total amount, and the counts so far.
# The amounts are bytes of a CSV, or rows of a Parquet file.
Progress = Callable[[int, int, Counts], None]

# Rows that the scorer gets together, always exactly so many (see _probabilities).
SLICE_ROWS = 256


@dataclass(frozen=True)
class Order:
    """The options of a run.

    Without a `version`, the run uses the one that serves. `shard` counts from 0. `bad_rows` is the
    file for rows that cannot be scored; without it the first such row ends the run.
    """

    source: Path
    out: Path
    version: str | None = None
    keep: tuple[str, ...] = ()
    bad_rows: Path | None = None
    shard: int = 0
    shards: int = 1
    chunk_rows: int = 65_536


@dataclass(frozen=True)
class BatchRun:
    """An order with the model, source and output that its stored plan needs."""

    order: Order
    layout: Layout
    plan: BatchPlan
    model: BatchModel
    source: Source
    output: Output

    def score(self, progress: Progress) -> Counts:
        """Score the pieces of the shard that are not done yet; return the counts of all.

        Raises DataError for the first bad row, unless the order names a file for bad rows.
        """
        pieces = self.plan.pieces_of(self.order.shard)
        # Pieces are scored in order, so the first one without counts ends those of an earlier run.
        counts, remaining = Counts(), pieces
        for piece in pieces:
            done = load(self.layout.done(piece), Counts)
            if done is None:
                break
            counts, remaining = counts + done, range(piece + 1, pieces.stop)
        begin, end = (
            self.source.end_of(piece - 1) if piece else 0 for piece in (pieces.start, pieces.stop)
        )
        for piece_rows in self.source.read(remaining):
            counts += self._score_piece(piece_rows)
            progress(self.source.end_of(piece_rows.number) - begin, end - begin, counts)
        return counts

    def _score_piece(self, piece: RowChunk) -> Counts:
        if self.order.bad_rows:
            BadRows(self.source.place).write(piece.bad, self.layout.bad(piece.number))
        elif piece.bad:
            bad = piece.bad[0]
            column = f", column {bad.column!r}" if bad.column else ""
            raise DataError(
                f"{self.order.source}: {self.source.place} {bad.number}{column}: {bad.reason}, "
                "or write such rows to another file with --bad-rows FILE"
            )
        table = self.output.table(
            piece, _probabilities(self.model, piece.x), self.model.version, self.model.threshold
        )
        self.output.write(table, self.layout.scores(piece.number))
        counts = Counts(
            len(table), int(table.column("prediction").to_numpy().sum()), len(piece.bad)
        )
        # Last: a piece counts as done only when its scores and bad rows are on disk.
        store(self.layout.done(piece.number), counts)
        return counts

    def join_shard(self, counts: Counts) -> None:
        """Join the pieces of the shard, store its counts, and delete the pieces.

        Raises DataError when the input changed during the run.
        """
        _check_unchanged(self.plan, self.order.source)
        pieces, shard, shards = (
            self.plan.pieces_of(self.order.shard),
            self.order.shard,
            self.order.shards,
        )
        self.output.join(
            [self.layout.scores(piece) for piece in pieces], part(self.order.out, shard, shards)
        )
        if self.order.bad_rows:
            BadRows(self.source.place).join(
                [self.layout.bad(piece) for piece in pieces],
                part(self.order.bad_rows, shard, shards),
            )
        # Only with these counts is the shard complete. Until then its pieces are needed.
        store(self.layout.shard_done(shard), counts)
        for piece in pieces:
            for path in (
                self.layout.done(piece),
                self.layout.scores(piece),
                self.layout.bad(piece),
            ):
                path.unlink(missing_ok=True)


def _probabilities(model: BatchModel, x: Matrix) -> Matrix:
    """Return the probabilities (rows,) of the rows `x` (rows, features).

    A row gets the same probability to the last bit wherever it is in the file. Therefore every call
    of the scorer has SLICE_ROWS rows, the last one filled up with zeros: BLAS sums the rows of an
    incomplete block in another order, and divides a larger block among threads.
    """
    full = np.concatenate([x, np.zeros((-len(x) % SLICE_ROWS, x.shape[1]))])
    slices = [
        model.scorer.score_many(full[start : start + SLICE_ROWS])
        for start in range(0, len(full), SLICE_ROWS)
    ]
    return np.concatenate([np.empty(0), *slices])[: len(x)]


def score_file(order: Order, models: BatchModels, progress: Progress) -> Summary | Counts:
    """Run an order; return the summary, or this shard's counts while other shards are missing.

    Raises SettingsError, DataError, BundleError, UnknownVersionError, StoreDownError.
    """
    layout = Layout(order.out)
    run = _begin(order, layout, models)
    if isinstance(run, Summary):
        # A run that was killed after its summary may have left files.
        clear(layout, run.plan)
        return run
    counts = load(layout.shard_done(order.shard), Counts)
    if counts is None or order.shard in missing_shards(layout, run.plan):
        counts = run.score(progress)
        run.join_shard(counts)
    return join(layout) or counts


def _begin(order: Order, layout: Layout, models: BatchModels) -> BatchRun | Summary:
    """Prepare a run, or return the summary if its output is complete already."""
    stored = load(layout.plan, BatchPlan)
    if stored and order.version in (None, stored.version):
        # A promotion during the run must not change the model of its remaining pieces.
        version, digest = stored.version, stored.digest
    else:
        version, digest = models.find(order.version)
    model = models.open(version, digest)
    source = open_source(order, model)
    plan = _plan(order, model, source)
    summary = load(layout.summary, Summary)
    if summary and summary.plan == plan and stored in (None, plan) and order.out.exists():
        return summary
    output = Output(order.out, source.kept_schema)
    claimed = claim(layout, plan)
    if stored is None and claimed != plan and order.version is None:
        # Another shard was first, perhaps with the version before a promotion: begin with its plan.
        return _begin(order, layout, models)
    check_same(claimed, plan, layout)
    return BatchRun(order, layout, claimed, model, source, output)


def open_source(order: Order, model: BatchModel) -> Source:
    """Open the input by its first bytes, whatever its name. Raises DataError."""
    path = order.source
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give the path of a CSV or Parquet file"
        ) from error
    if start == ZIP:
        raise DataError(f"{path}: a zip or Excel file; unpack it, or save the sheet as CSV")
    kind = ParquetSource if start == MAGIC else CsvSource
    return kind(path, model.schema, order.keep, order.chunk_rows)


def _plan(order: Order, model: BatchModel, source: Source) -> BatchPlan:
    status = order.source.stat()
    return BatchPlan(
        input=order.source.name,
        bytes=status.st_size,
        modified_ns=status.st_mtime_ns,
        chunk_rows=order.chunk_rows,
        pieces=source.pieces,
        keep=source.keep,
        bad_rows=str(order.bad_rows) if order.bad_rows else None,
        shards=order.shards,
        model_name=model.name,
        version=model.version,
        digest=model.digest,
        threshold=model.threshold,
    )


def _check_unchanged(plan: BatchPlan, source: Path) -> None:
    status = source.stat()
    if (status.st_size, status.st_mtime_ns) != (plan.bytes, plan.modified_ns):
        raise DataError(
            f"{source}: the file changed while it was scored; "
            "start again when nothing writes to it any more"
        )
