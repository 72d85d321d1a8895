"""One run over a file: plan, pieces, shards, whole.

Killed at any moment and started again it goes on where it was, and ends with the same bytes.
"""

import fcntl
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fraudops.batch.csv_source import CsvSource
from fraudops.batch.model import BatchModel, BatchModels
from fraudops.batch.output import BadRows, Output, join_shards
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
    writing,
)
from fraudops.batch.rows import Matrix, RowChunk
from fraudops.datasets.loading import ZIP
from fraudops.datasets.parquet_file import MAGIC
from fraudops.errors import DataError
from fraudops.files import temporary_path

Source = CsvSource | ParquetSource
# Told after every piece: how much of the input is done, how much there is, and what was scored so
# far.
Progress = Callable[[int, int, Counts], None]

SLICE_ROWS = 256


@dataclass(frozen=True)
class Order:
    """What is asked for. `version` None is the one that serves; `shard` counts from 0."""

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
    """An order with everything that it needs, under a plan that stands."""

    order: Order
    layout: Layout
    plan: BatchPlan
    model: BatchModel
    source: Source
    output: Output

    def score(self, progress: Progress) -> Counts:
        """Every piece of the shard that is not done yet.

        Raises DataError for the first bad row unless bad rows are set aside.
        """
        pieces = self.plan.pieces_of(self.order.shard)
        counts, left = Counts(), pieces
        for piece in pieces:
            done = load(self.layout.done(piece), Counts)
            if done is None:
                break
            counts, left = counts + done, range(piece + 1, pieces.stop)
        begin, end = (
            self.source.end_of(piece - 1) if piece else 0 for piece in (pieces.start, pieces.stop)
        )
        for found in self.source.read(left):
            counts += self._score_piece(found)
            progress(self.source.end_of(found.number) - begin, end - begin, counts)
        return counts

    def _score_piece(self, piece: RowChunk) -> Counts:
        if self.order.bad_rows:
            BadRows(self.source.place).write(piece.bad, self.layout.bad(piece.number))
        elif piece.bad:
            bad = piece.bad[0]
            column = f", column {bad.column!r}" if bad.column else ""
            raise DataError(
                f"{self.order.source}: {self.source.place} {bad.number}{column}: {bad.reason}, or set such rows aside with --bad-rows FILE"
            )
        table = self.output.table(
            piece, _probabilities(self.model, piece.x), self.model.version, self.model.threshold
        )
        self.output.write(table, self.layout.scores(piece.number))
        counts = Counts(
            len(table), int(table.column("prediction").to_numpy().sum()), len(piece.bad)
        )
        store(self.layout.done(piece.number), counts)
        return counts

    def join_shard(self, counts: Counts) -> None:
        """The shard's own file, and its note that it is whole."""
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
        store(self.layout.shard_done(shard), counts)
        for piece in pieces:
            for path in (
                self.layout.done(piece),
                self.layout.scores(piece),
                self.layout.bad(piece),
            ):
                path.unlink(missing_ok=True)


def _probabilities(model: BatchModel, x: Matrix) -> Matrix:
    """(rows, features) → (rows,), to the last bit the same wherever a row stands.

    In full slices, the last one filled up: BLAS sums the rows of an incomplete block in another
    order, and shares larger ones out among threads.
    """
    full = np.concatenate([x, np.zeros((-len(x) % SLICE_ROWS, x.shape[1]))])
    slices = [
        model.scorer.score_many(full[start : start + SLICE_ROWS])
        for start in range(0, len(full), SLICE_ROWS)
    ]
    return np.concatenate([np.empty(0), *slices])[: len(x)]


def score_file(order: Order, models: BatchModels, progress: Progress) -> Summary | Counts:
    """The summary once the whole output is there, else (other shards are missing) the counts of
    this shard.
    """
    layout = Layout(order.out)
    run = _begin(order, layout, models)
    if isinstance(run, Summary):
        _clear(layout, run.plan)
        return run
    counts = load(layout.shard_done(order.shard), Counts)
    if counts is None or order.shard in missing_shards(layout, run.plan):
        counts = run.score(progress)
        run.join_shard(counts)
    return join(layout) or counts


def _begin(order: Order, layout: Layout, models: BatchModels) -> BatchRun | Summary:
    standing = load(layout.plan, BatchPlan)
    if standing and order.version in (None, standing.version):
        version, digest = standing.version, standing.digest  # a promotion meanwhile changes nothing
    else:
        version, digest = models.find(order.version)
    model = models.open(version, digest)
    source = open_source(order, model)
    plan = _plan(order, model, source)
    summary = load(layout.summary, Summary)
    if summary and summary.plan == plan and standing in (None, plan) and order.out.exists():
        return summary
    output = Output(order.out, source.kept_schema)
    stands = claim(layout, plan)
    if standing is None and stands != plan and order.version is None:
        return _begin(
            order, layout, models
        )  # another shard came first, perhaps with the version before a promotion
    check_same(stands, plan, layout)
    return BatchRun(order, layout, stands, model, source, output)


def open_source(order: Order, model: BatchModel) -> Source:
    """By what the file begins with, whatever its name. Raises DataError."""
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
    found = order.source.stat()
    return BatchPlan(
        input=order.source.name,
        bytes=found.st_size,
        modified_ns=found.st_mtime_ns,
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
    found = source.stat()
    if (found.st_size, found.st_mtime_ns) != (plan.bytes, plan.modified_ns):
        raise DataError(
            f"{source}: the file has changed while it was scored; start again once it rests"
        )


def join(layout: Layout) -> Summary | None:
    """Joins the shards once all of them are whole;

    None while some are missing. Two shards that end at once take turns, and the second finds it
    done.
    """
    try:
        lock = layout.lock.open("w")
    except FileNotFoundError:
        return load(layout.summary, Summary)
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = load(layout.plan, BatchPlan)
        if plan is None:
            return load(layout.summary, Summary)
        return None if missing_shards(layout, plan) else _join(layout, plan)


def _join(layout: Layout, plan: BatchPlan) -> Summary:
    counts = Counts()
    for shard in range(plan.shards):
        counts += load(layout.shard_done(shard), Counts) or Counts()
    if plan.shards > 1:
        for path in _targets(layout, plan):
            join_shards(_parts(path, plan), path)
    summary = Summary(plan, counts)
    store(layout.summary, summary)
    _clear(layout, plan)
    return summary


def _clear(layout: Layout, plan: BatchPlan) -> None:
    """Removes what a whole output no longer needs.

    The folder goes at once, by a rename: no later run may find half of it.
    """
    if layout.folder.exists():
        aside = temporary_path(layout.folder)
        with writing(layout.folder), suppress(FileNotFoundError):
            layout.folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    for path in _targets(layout, plan) if plan.shards > 1 else ():
        for shard in _parts(path, plan):
            shard.unlink(missing_ok=True)


def _targets(layout: Layout, plan: BatchPlan) -> list[Path]:
    return [layout.out, *([Path(plan.bad_rows)] if plan.bad_rows else [])]


def _parts(path: Path, plan: BatchPlan) -> list[Path]:
    return [part(path, shard, plan.shards) for shard in range(plan.shards)]


def missing_shards(layout: Layout, plan: BatchPlan) -> list[int]:
    """Those whose note or whose files are not there."""
    paths = {
        shard: [
            layout.shard_done(shard),
            *(part(path, shard, plan.shards) for path in _targets(layout, plan)),
        ]
        for shard in range(plan.shards)
    }
    return [shard for shard, wanted in paths.items() if not all(path.exists() for path in wanted)]
