"""What a worker keeps open, what it forgets, and changes that meet."""

import asyncio
import shutil
import threading
import time
from pathlib import Path

import pytest

from fraudops.promotion.serving_record import ServingTarget
from services.inference.metrics import Metrics
from services.inference.model import LoadedModel, open_model
from services.inference.pod import worker as worker_module
from services.inference.pod.worker import Drain, Worker
from services.inference.pod.worker_channel import Ask
from tests.support.bundles import write_linear_bundle


class SeenMetrics(Metrics):
    """Metrics that also keep what was set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[tuple[ServingTarget, bool]] = []

    def serves(self, target: ServingTarget, sample: bool) -> None:
        super().serves(target, sample)
        self.seen.append((target, sample))


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    folder.mkdir()
    return folder


@pytest.fixture
def metrics(tmp_path: Path) -> SeenMetrics:
    return SeenMetrics(tmp_path)


@pytest.fixture
def worker(bundles: Path, metrics: Metrics) -> Worker:
    return Worker(bundles, metrics, Drain())


def target(bundles: Path, epoch: int, sample: bool = False) -> ServingTarget:
    made = bundles.parent / "made"
    digest = write_linear_bundle(made, epoch, sample=sample)
    made.rename(bundles / digest)
    return ServingTarget(epoch, str(epoch), digest)


def remove(bundles: Path, at: ServingTarget) -> None:
    """Remove the bundle's files, so that only an open model can serve it."""
    shutil.rmtree(bundles / at.digest)


async def prepared(worker: Worker) -> set[str]:
    return set((await worker.answer(Ask(op="state"))).prepared)


async def until_prepared(worker: Worker, expected: set[str]) -> None:
    end = time.monotonic() + 5
    while (found := await prepared(worker)) != expected:
        assert time.monotonic() < end, found
        await asyncio.sleep(0.02)


# Operations.


async def test_a_worker_drains_only_after_it_was_asked_to(worker: Worker) -> None:
    assert not (await worker.answer(Ask(op="state"))).draining
    reply = await worker.answer(Ask(op="drain"))
    assert (reply.draining, reply.error, reply.temporary) == (True, None, False)


async def test_a_question_changes_nothing(worker: Worker, bundles: Path) -> None:
    at = target(bundles, 5)
    await worker.prepare(at, "peer", 60.0)
    for ask in (
        Ask(op="state", target=at),
        Ask(op="prepare"),
        Ask(op="activate"),
        Ask(op="drop"),
    ):
        reply = await worker.answer(ask)
        assert (reply.error, reply.target, set(reply.prepared)) == (None, None, {at.digest})


async def test_an_activation_serves_with_its_source_and_shows_it_in_the_metrics(
    worker: Worker, bundles: Path, metrics: SeenMetrics
) -> None:
    targets = target(bundles, 5, sample=True), target(bundles, 6)
    for at, source in zip(targets, ("peer", "registry"), strict=True):
        await worker.answer(Ask(op="activate", target=at, source=source))
        assert worker.serving is not None
        assert (worker.serving.target, worker.serving.source) == (at, source)
    assert metrics.seen == [(targets[0], True), (targets[1], False)]


async def test_an_activation_of_what_serves_changes_nothing(
    worker: Worker, bundles: Path, metrics: SeenMetrics
) -> None:
    at = target(bundles, 5)
    await worker.activate(at, "peer")
    before = worker.serving
    await worker.activate(at, "cache")
    assert worker.serving is before
    assert len(metrics.seen) == 1


# Open models.


async def test_a_prepared_model_serves_without_its_files(worker: Worker, bundles: Path) -> None:
    at = target(bundles, 5)
    await worker.prepare(at, "peer", 60.0)
    remove(bundles, at)
    await worker.activate(at, "peer")
    assert worker.serving is not None
    assert (worker.serving.target, worker.serving.model.digest) == (at, at.digest)


async def test_the_model_that_served_before_serves_again_without_its_files(
    worker: Worker, bundles: Path
) -> None:
    before, after = target(bundles, 5), target(bundles, 6)
    await worker.activate(before, "peer")
    await worker.activate(after, "peer")
    # The same bundle under another version does not take the place of the model before.
    await worker.activate(ServingTarget(7, "7", after.digest), "peer")
    remove(bundles, before)
    back = ServingTarget(8, "5", before.digest)
    await worker.activate(back, "cache")
    assert worker.serving is not None
    assert (worker.serving.target, worker.serving.model.digest) == (back, before.digest)


# Preparations.


async def test_a_preparation_ends_by_itself(worker: Worker, bundles: Path) -> None:
    short, long = target(bundles, 5), target(bundles, 6)
    await worker.prepare(short, "peer", 0.2)
    await worker.prepare(long, "peer", 60.0)
    assert await prepared(worker) >= {long.digest}
    await until_prepared(worker, {long.digest})


@pytest.mark.parametrize("dropped", [True, False])
async def test_the_end_of_an_earlier_preparation_does_not_end_the_next_one(
    worker: Worker, bundles: Path, dropped: bool
) -> None:
    at, other = target(bundles, 5), target(bundles, 6)
    await worker.prepare(at, "peer", 0.2)
    if dropped:
        worker.drop(at)
        assert await prepared(worker) == set()
    await worker.prepare(at, "peer", 60.0)
    # This one begins later than the first and ends later.
    await worker.prepare(other, "peer", 0.4)
    await until_prepared(worker, {at.digest})


async def test_a_later_promotion_takes_over_the_preparation_of_the_same_bundle(
    worker: Worker, bundles: Path
) -> None:
    at = target(bundles, 5)
    later = ServingTarget(6, "6", at.digest)
    await worker.prepare(at, "peer", 60.0)
    await worker.prepare(later, "cache", 60.0)
    worker.drop(at)
    reply = await worker.answer(Ask(op="state"))
    assert reply.prepared == {at.digest: "cache"}


# Changes that meet.


class Gate:
    """Opens the bundle of one digest only when the test lets it."""

    def __init__(self, digest: str) -> None:
        self.digest, self.reached, self.open = digest, threading.Event(), threading.Event()

    def __call__(self, folder: Path, version: str, digest: str) -> LoadedModel:
        if digest == self.digest:
            self.reached.set()
            self.open.wait(5)
        return open_model(folder, version, digest)

    async def meets(self, first: asyncio.Task[None], second: asyncio.Task[None]) -> None:
        """Let the first change finish only after the second could have overtaken it."""
        await asyncio.to_thread(self.reached.wait, 5)
        await asyncio.wait({second}, timeout=0.5)
        self.open.set()
        await asyncio.gather(first, second)


@pytest.mark.parametrize("first", ["prepare", "activate"])
async def test_two_changes_happen_one_after_the_other(
    worker: Worker, bundles: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    slow, quick = target(bundles, 5), target(bundles, 6)
    gate = Gate(slow.digest)
    monkeypatch.setattr(worker_module, "open_model", gate)
    change = (
        worker.prepare(slow, "peer", 60.0) if first == "prepare" else worker.activate(slow, "peer")
    )
    await gate.meets(
        asyncio.create_task(change), asyncio.create_task(worker.activate(quick, "peer"))
    )
    assert worker.serving is not None
    assert worker.serving.target == quick
    # The activation ends the preparation of an earlier epoch.
    assert await prepared(worker) == set()
