"""The models of one worker: what it serves, what it has prepared, and what it refuses."""

import errno
from pathlib import Path

import pytest

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.serving_record import ServingTarget
from services.inference.metrics import Metrics
from services.inference.pod import worker as worker_module
from services.inference.pod.worker import Drain, Worker
from services.inference.pod.worker_channel import Ask, Reply, WorkerAnswer, WorkerShown
from services.inference.pod.workers import prepare_failure
from tests.support.bundles import write_linear_bundle


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    folder = tmp_path / "bundles"
    folder.mkdir()
    return folder


@pytest.fixture
def worker(tmp_path: Path, bundles: Path) -> Worker:
    return Worker(bundles, Metrics(tmp_path), Drain())


def target(bundles: Path, epoch: int, seed: int) -> ServingTarget:
    """Write the bundle of that seed, and return it as the version of that number."""
    made = bundles.parent / "made"
    digest = write_linear_bundle(made, seed)
    if not (bundles / digest).exists():
        made.rename(bundles / digest)
    return ServingTarget(epoch, str(seed), digest)


async def prepare(worker: Worker, at: ServingTarget) -> Reply:
    return await worker.answer(Ask(op="prepare", target=at, source="peer", seconds=60))


async def drop(worker: Worker, at: ServingTarget) -> Reply:
    return await worker.answer(Ask(op="drop", target=at))


async def activate(worker: Worker, at: ServingTarget) -> Reply:
    return await worker.answer(Ask(op="activate", target=at, source="cache"))


async def test_a_late_message_of_an_earlier_promotion_leaves_a_prepared_model(
    worker: Worker, bundles: Path
) -> None:
    earlier, later = target(bundles, 5, 2), target(bundles, 6, 2)
    prepared = {later.digest: "peer"}
    assert (await prepare(worker, later)).prepared == prepared
    assert (await drop(worker, earlier)).prepared == prepared
    # Without the rule the earlier prepare would put its own epoch in place of the later one.
    await prepare(worker, earlier)
    assert (await drop(worker, earlier)).prepared == prepared
    assert (await drop(worker, later)).prepared == {}


async def test_a_request_without_an_epoch_drops_every_preparation(
    worker: Worker, bundles: Path
) -> None:
    at = target(bundles, 5, 2)
    await prepare(worker, at)
    assert (await drop(worker, ServingTarget(0, "", "0" * 64))).prepared == {at.digest: "peer"}
    assert (await drop(worker, ServingTarget(0, "", at.digest))).prepared == {}


async def test_an_activation_drops_only_what_no_later_promotion_needs(
    worker: Worker, bundles: Path
) -> None:
    passed, served, later = (target(bundles, epoch, epoch) for epoch in (4, 5, 6))
    for at in (passed, served, later):
        await prepare(worker, at)
    reply = await activate(worker, served)
    assert (reply.target, reply.prepared) == (served, {later.digest: "peer"})


async def test_a_worker_refuses_a_lower_epoch_and_another_model_and_serves_on(
    worker: Worker, bundles: Path
) -> None:
    served = target(bundles, 5, 2)
    assert (await activate(worker, served)).target == served
    for refused in (target(bundles, 4, 3), target(bundles, 5, 3)):
        reply = await activate(worker, refused)
        assert reply.error is not None
        assert (reply.target, reply.temporary) == (served, False)


async def test_two_versions_with_one_bundle_serve_under_their_own_names(
    worker: Worker, bundles: Path
) -> None:
    served = target(bundles, 5, 2)
    await activate(worker, served)
    renamed = ServingTarget(6, "9", served.digest)
    assert (await activate(worker, renamed)).target == renamed
    assert worker.serving is not None
    assert worker.serving.model.version == "9"


async def test_an_altered_bundle_is_refused_for_good_and_an_unreadable_one_is_not(
    worker: Worker, bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    altered = target(bundles, 5, 2)
    with (bundles / altered.digest / "scorer.json").open("a") as file:
        file.write(" ")
    reply = await prepare(worker, altered)
    assert "altered" in str(reply.error)
    assert (reply.temporary, reply.prepared) == (False, {})
    reply = await prepare(worker, ServingTarget(5, "7", "7" * 64))
    assert "no readable bundle.json" in str(reply.error)
    assert reply.temporary

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(worker_module, "open_model", refuse)
    reply = await prepare(worker, target(bundles, 5, 3))
    assert reply.error == "its bundle cannot be read (Too many open files)"
    assert reply.temporary


FINE = WorkerAnswer(1, Reply(pid=1))
FINAL = WorkerAnswer(2, Reply(pid=2, error="altered"))
TEMPORARY = WorkerAnswer(3, Reply(pid=3, error="cannot be read", temporary=True))
SILENT = WorkerAnswer(4, None)


@pytest.mark.parametrize(
    ("answers", "kind", "message"),
    [
        ([FINE], None, None),
        ([], None, None),
        ([FINE, FINAL], RefusedError, "version 7 was not prepared: worker 2: altered"),
        ([FINE, TEMPORARY], StoreDownError, "worker 3: cannot be read"),
        ([SILENT], StoreDownError, "worker 4 does not answer"),
        ([FINAL, SILENT], StoreDownError, "worker 2: altered; worker 4 does not answer"),
    ],
)
def test_a_preparation_fails_for_good_only_if_no_worker_may_succeed_later(
    answers: list[WorkerAnswer], kind: type[Exception] | None, message: str | None
) -> None:
    failure = prepare_failure("7", answers)
    assert (type(failure) if failure else None) == kind
    assert (message or "") in str(failure)


def test_a_worker_is_shown_with_its_epoch_and_version_or_nulls() -> None:
    serving = WorkerAnswer(5, Reply(pid=5, target=ServingTarget(4, "1", "1" * 64)))
    assert serving.shown == WorkerShown(5, 4, "1")
    assert FINE.shown == WorkerShown(1, 0, None)
    assert SILENT.shown == WorkerShown(4, None, None)
