"""`fraudops score`, killed or in shards, writes the bytes of one undisturbed run."""

import contextlib
import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fraudops.batch import run
from fraudops.batch.plan import BatchPlan, Counts, Layout, Summary, claim
from fraudops.batch.run import Order, score_file
from fraudops.errors import DataError, SettingsError
from tests.support.commands import Caller, bare_environment
from tests.support.scored import VERSION, Scene
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
ROWS = 260


def quietly(_done: int, _total: int, _counts: Counts) -> None:
    pass


def order_of(scene: Scene, folder: Path, suffix: str, shards: int = 1) -> Order:
    """Return an order over an input with one bad row, which makes about nine pieces."""
    source = folder / f"in.{suffix}"
    if suffix == "csv":
        lines = scene.lines(ROWS)
        source.write_text(
            "".join(
                [*lines[:100], lines[100].replace(lines[100].split(",")[3], "x", 1), *lines[101:]]
            )
        )
    else:
        scene.parquet(source, ROWS)
    return Order(
        source,
        folder / f"out.{suffix}",
        bad_rows=folder / "aside.csv",
        keep=("note",),
        shards=shards,
        chunk_rows=30,
    )


def results(order: Order) -> tuple[bytes, bytes]:
    assert order.bad_rows is not None
    return order.out.read_bytes(), order.bad_rows.read_bytes()


def undisturbed(order: Order, scene: Scene) -> tuple[bytes, bytes]:
    """Return the bytes that one run without shards writes, and delete its files."""
    assert isinstance(score_file(replace(order, shards=1), scene.models, quietly), Summary)
    written = results(order)
    for path in (order.out, order.bad_rows, Layout(order.out).summary):
        assert path is not None
        path.unlink()
    return written


class Killed(BaseException):
    """A simulated SIGKILL: no `except Exception` of the program catches it."""


class KillSwitch:
    """Kills the program before its effect with this number; no later effect happens.

    An effect that writes bytes is killed after half of them.
    """

    def __init__(self, number: int) -> None:
        self.left, self.dead = number, False

    def guard(self, effect: Callable[..., Any]) -> Callable[..., Any]:
        # A plain function: as a class attribute of Path it must bind its instance.
        def guarded(*arguments: Any, **named: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                if effect.__name__ == "write_bytes" and not self.dead:
                    effect(arguments[0], arguments[1][: len(arguments[1]) // 2])
                self.dead = True
                raise Killed
            return effect(*arguments, **named)

        return guarded


EFFECTS = (
    (Path, "replace"),
    (Path, "rename"),
    (Path, "unlink"),
    (Path, "write_bytes"),
    (Path, "mkdir"),
    (os, "link"),
    (os, "rmdir"),
    (shutil, "rmtree"),
)


def killed_at(number: int, act: Callable[[], object]) -> bool:
    """Run `act` and kill it at this effect; return False if it has fewer effects."""
    switch = KillSwitch(number)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in EFFECTS:
            patch.setattr(owner, name, switch.guard(getattr(owner, name)))
        with contextlib.suppress(Killed):
            act()
    return switch.dead


@pytest.mark.parametrize(("suffix", "shards"), [("csv", 1), ("parquet", 2)])
def test_a_run_killed_at_any_effect_ends_with_the_same_bytes(
    scene: Scene, tmp_path: Path, suffix: str, shards: int
) -> None:
    order = replace(order_of(scene, tmp_path, suffix, shards), chunk_rows=70)
    expected = undisturbed(order, scene)

    def all_shards() -> None:
        for shard in range(shards):
            score_file(replace(order, shard=shard), scene.models, quietly)

    number = 0
    while killed_at(number, all_shards):
        if order.out.exists():
            assert order.out.read_bytes() == expected[0], f"half of it appeared at effect {number}"
        all_shards()
        assert results(order) == expected, f"killed at effect {number}"
        left = {path.name for path in tmp_path.iterdir()}
        assert {name for name in left if not name.endswith(".tmp")} == {
            f"in.{suffix}",
            f"out.{suffix}",
            f"out.{suffix}.json",
            "aside.csv",
        }
        for path in tmp_path.iterdir():
            if path.name != f"in.{suffix}":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        number += random.randint(1, 9)  # random steps: many runs together kill at every effect
    assert number > 30


def test_a_process_killed_at_a_random_moment_is_continued(scene: Scene, tmp_path: Path) -> None:
    order = replace(
        order_of(scene, tmp_path, "csv"), source=scene.csv(tmp_path / "long.csv", 2_400)
    )
    expected, layout = undisturbed(order, scene), Layout(order.out)
    piece = random.randrange(1, 40)
    words = [
        order.source,
        "--out",
        order.out,
        "--bad-rows",
        order.bad_rows,
        "--keep",
        "note",
        "--chunk-rows",
        order.chunk_rows,
        "--state",
        scene.state.root,
    ]
    command_line = [sys.executable, "-m", "jobs.score", *map(str, words)]
    process = subprocess.Popen(
        command_line,
        cwd=ROOT,
        env=bare_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: layout.done(piece).stat(), pause=0.001)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert not order.out.exists()
    progress: list[Counts] = []
    summary = score_file(order, scene.models, lambda _done, _total, counts: progress.append(counts))
    assert isinstance(summary, Summary)
    assert summary.counts.scored == 2_400
    assert len(progress) < summary.plan.pieces - piece
    assert results(order) == expected


def test_the_shard_whose_plan_is_second_follows_the_plan_of_the_first(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both shards use one version even if a promotion runs between their plans."""
    order = order_of(scene, tmp_path, "csv", shards=2)
    expected = undisturbed(order, scene)

    def claim_after_the_other(layout: Layout, plan: BatchPlan) -> BatchPlan:
        monkeypatch.setattr(run, "claim", claim)
        scene.serve(VERSION)
        score_file(replace(order, shard=1), scene.models, quietly)
        assert plan.version == "4"
        return claim(layout, plan)

    monkeypatch.setattr(run, "claim", claim_after_the_other)
    scene.serve("4")
    assert isinstance(score_file(order, scene.models, quietly), Summary)
    assert results(order) == expected


def test_a_shard_waits_for_another_that_is_joining(scene: Scene, tmp_path: Path) -> None:
    order = order_of(scene, tmp_path, "csv", shards=2)
    expected, layout = undisturbed(order, scene), Layout(order.out)
    score_file(order, scene.models, quietly)
    with ThreadPoolExecutor() as pool, layout.lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        last = pool.submit(score_file, replace(order, shard=1), scene.models, quietly)
        eventually(lambda: layout.shard_done(1).stat())
        with pytest.raises(TimeoutError):
            last.result(0.2)
        assert not order.out.exists()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert isinstance(last.result(10), Summary)
    assert results(order) == expected


def test_an_indexed_job_scores_the_shard_of_its_index(
    scene: Scene, score: Caller, tmp_path: Path
) -> None:
    order = order_of(scene, tmp_path, "parquet", shards=2)
    expected = undisturbed(replace(order, bad_rows=tmp_path / "aside.csv"), scene)[0]
    words = (
        order.source,
        "--out",
        order.out,
        "--keep",
        "note",
        "--chunk-rows",
        "30",
        "--state",
        scene.state.root,
    )
    first = score(*words, "--shards", "2", JOB_COMPLETION_INDEX="1")
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "out.parquet.part-1-of-2").exists()
    assert not order.out.exists()
    early = score("--merge", "--out", order.out)
    assert (early.returncode, "of 2 shards these are not complete: 0" in early.stderr) == (65, True)
    assert score(*words, "--shards", "2", JOB_COMPLETION_INDEX="0").returncode == 0
    assert order.out.read_bytes() == expected
    assert score("--merge", "--out", order.out).returncode == 0, "a second join changes nothing"


def test_a_promotion_during_a_run_changes_nothing(scene: Scene, tmp_path: Path) -> None:
    order = order_of(scene, tmp_path, "parquet", shards=2)
    expected = undisturbed(order, scene)
    score_file(replace(order, shard=1), scene.models, quietly)
    scene.serve("4")
    try:
        summary = score_file(replace(order, shard=0), scene.models, quietly)
        assert isinstance(summary, Summary)
        assert (summary.plan.version, results(order)) == (VERSION, expected)
        after = score_file(replace(order, shard=1), scene.models, quietly)
        assert isinstance(after, Counts), "a new run, of the version that serves now"
    finally:
        scene.serve(VERSION)


@pytest.fixture
def begun_order(scene: Scene, tmp_path: Path) -> Order:
    """Return the order of a run whose second shard has not been scored yet."""
    order = order_of(scene, tmp_path, "parquet", shards=2)
    score_file(order, scene.models, quietly)
    return order


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keep": ()}, "another --keep"),
        ({"bad_rows": None}, "another --bad-rows"),
        ({"chunk_rows": 31}, "another --chunk-rows"),
        ({"shards": 3}, "another number of shards"),
    ],
)
def test_a_begun_run_is_not_continued_with_other_options(
    scene: Scene, begun_order: Order, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(SettingsError, match=words):
        score_file(replace(begun_order, **change), scene.models, quietly)


def test_a_begun_run_is_not_continued_with_a_changed_input(
    scene: Scene, begun_order: Order
) -> None:
    scene.parquet(begun_order.source, ROWS - 1)
    with pytest.raises(SettingsError, match="another state of the input file"):
        score_file(replace(begun_order, shard=1), scene.models, quietly)


def test_an_input_that_changes_during_a_run_is_noticed(scene: Scene, tmp_path: Path) -> None:
    order = order_of(scene, tmp_path, "csv")
    with pytest.raises(DataError, match="changed while it was scored"):
        score_file(
            order, scene.models, lambda _done, _total, _counts: os.utime(order.source, ns=(1, 1))
        )
    assert not order.out.exists()


def test_a_complete_run_is_not_repeated(scene: Scene, tmp_path: Path) -> None:
    order, progress = order_of(scene, tmp_path, "csv"), list[Counts]()
    first = score_file(order, scene.models, quietly)
    before = order.out.stat().st_mtime_ns
    again = score_file(order, scene.models, lambda _done, _total, counts: progress.append(counts))
    assert again == first
    assert (order.out.stat().st_mtime_ns, progress) == (before, [])


def test_the_number_of_shards_changes_no_byte(scene: Scene, tmp_path: Path) -> None:
    written = []
    for shards in (1, 4, 13):
        order = order_of(scene, tmp_path, "parquet", shards)
        for shard in random.sample(range(shards), shards):
            score_file(replace(order, shard=shard), scene.models, quietly)
        written.append(results(order))
        Layout(order.out).summary.unlink()
    assert written == [written[0]] * 3
