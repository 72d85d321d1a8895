"""The end of a run: join the outputs of its shards to one file, and delete temporary files."""

import fcntl
import shutil
from contextlib import suppress
from pathlib import Path

from fraudops.batch.output import join_shards
from fraudops.batch.plan import BatchPlan, Counts, Layout, Summary, load, part, store, writing
from fraudops.files import temporary_path


def join(layout: Layout) -> Summary | None:
    """Join the shards if all of them are complete, and return the summary.

    Return None while shards are missing. Raises SettingsError, StoreDownError.
    """
    try:
        lock = layout.lock.open("w")
    except FileNotFoundError:
        # The folder is deleted: another process has joined the shards.
        return load(layout.summary, Summary)
    with lock:
        # Two shards that end at the same time wait for each other here. The second finds no plan,
        # because the first has removed the folder.
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
    # Before the parts are deleted: from now on the output is complete, even after a crash.
    store(layout.summary, summary)
    clear(layout, plan)
    return summary


def clear(layout: Layout, plan: BatchPlan) -> None:
    """Delete the files that a complete output does not need any more."""
    if layout.folder.exists():
        # The rename removes the whole folder in one step: no later run may find a part of it.
        doomed = temporary_path(layout.folder)
        with writing(layout.folder), suppress(FileNotFoundError):
            layout.folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    for path in _targets(layout, plan) if plan.shards > 1 else ():
        for shard in _parts(path, plan):
            shard.unlink(missing_ok=True)


def _targets(layout: Layout, plan: BatchPlan) -> list[Path]:
    return [layout.out, *([Path(plan.bad_rows)] if plan.bad_rows else [])]


def _parts(path: Path, plan: BatchPlan) -> list[Path]:
    return [part(path, shard, plan.shards) for shard in range(plan.shards)]


def missing_shards(layout: Layout, plan: BatchPlan) -> list[int]:
    """Return the shards whose counts or whose files do not exist."""
    paths = {
        shard: [
            layout.shard_done(shard),
            *(part(path, shard, plan.shards) for path in _targets(layout, plan)),
        ]
        for shard in range(plan.shards)
    }
    return [shard for shard, files in paths.items() if not all(path.exists() for path in files)]
