"""Single looks of a pod's poller at the record, over one real worker.

The test decides what the record says, what the worker refuses, and what the poller's clock shows.
"""

import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from fraudops.errors import StoreDownError
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import (
    EMPTY,
    ServingRecord,
    ServingTarget,
)
from fraudops.state import State
from services.inference.folders import VERIFIED
from services.inference.metrics import Metrics
from services.inference.pod import poller as poller_module
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.poller import Poller
from services.inference.pod.state import (
    RecordView,
    pod_state_path,
    read_pod_state,
    read_record_view,
    record_view_path,
    write,
)
from services.inference.pod.worker import Drain, Worker
from services.inference.pod.worker_channel import Ask, Reply, RunFolder
from services.inference.pod.workers import Workers
from tests.support.bundles import write_linear_bundle
from tests.support.serving_records import record

POLL_SECONDS = 2.0


class SeenMetrics(Metrics):
    """Metrics that also keep the epochs of the record."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[tuple[int, int]] = []

    def record_read(self, epoch: int, mirrored: int) -> None:
        super().record_read(epoch, mirrored)
        self.seen.append((epoch, mirrored))


@dataclass
class Pod:
    """While `refuses`, the worker carries out nothing. `at_read` runs at each read."""

    state: State
    worker: Worker
    run: RunFolder
    metrics: SeenMetrics
    clock: SimpleNamespace
    record: ServingRecord | Exception | None = EMPTY
    refuses: bool = False
    reads: int = 0
    at_read: Callable[[], None] = lambda: None
    asked: list[Ask] = field(default_factory=list)

    def target(self, epoch: int) -> ServingTarget:
        """Put a bundle of that seed into the cache, as the bundle verifier leaves it."""
        made = self.state.root / "made"
        digest = write_linear_bundle(made, epoch)
        made.rename(self.state.bundles / digest)
        (self.state.run / f"{VERIFIED}{digest}").write_text(f"{epoch} ")
        return ServingTarget(epoch, str(epoch), digest)

    def poller(
        self,
        workers: int = 1,
        template: ServingTarget | None = None,
        poll_seconds: float = POLL_SECONDS,
    ) -> Poller:
        cache = BundleCache(self.state.bundles, self.run, self.state.public_keys)
        pod = PodCoordinator(self.state, Workers(self.run, workers), cache, self.read, template)
        return Poller(pod, self.metrics, poll_seconds)

    async def serves(self, at: ServingTarget, view: RecordView) -> None:
        write(pod_state_path(self.state), PodState().serving(at, "peer"))
        write(record_view_path(self.state), view)
        await self.worker.activate(at, "peer")

    def read(self) -> ServingRecord | None:
        self.reads += 1
        self.at_read()
        if isinstance(self.record, Exception):
            raise self.record
        return self.record

    async def answer(self, ask: Ask) -> Reply:
        self.asked.append(ask)
        if self.refuses and ask.op in ("prepare", "activate"):
            return Reply(pid=os.getpid(), error=f"no memory for {ask.op}", temporary=True)
        return await self.worker.answer(ask)

    def view(self) -> RecordView:
        return read_record_view(self.state)

    def changes(self) -> int:
        """Return how often the worker was asked to change, and forget it."""
        count = sum(ask.op in ("prepare", "activate") for ask in self.asked)
        self.asked.clear()
        return count


@pytest.fixture
async def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pod]:
    state = State.at(tmp_path)
    for folder in (state.run, state.bundles, state.metrics):
        folder.mkdir()
    run, metrics = RunFolder(state.run), SeenMetrics(state.metrics)
    clock = SimpleNamespace(seconds=1000.0)
    clock.monotonic = lambda: clock.seconds
    monkeypatch.setattr(poller_module, "time", clock)
    made = Pod(state, Worker(state.bundles, metrics, Drain()), run, metrics, clock)
    listener = await run.serve(made.answer)
    yield made
    listener.close()


# What one look writes down.


async def test_a_look_follows_the_record_and_makes_the_pod_ready(
    pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    at = pod.target(4)
    pod.record, poller = record(at, alias_epoch=3), pod.poller()
    assert await poller._look() is False
    assert read_pod_state(pod.state).target == at
    assert pod.view() == RecordView(target=at, ready=True)
    assert pod.metrics.seen == [(4, 3)]


async def test_a_look_at_an_empty_record_leaves_the_pod_unready(pod: Pod) -> None:
    # Such a pod waits for the first promotion and not for its workers.
    assert await pod.poller()._look() is False
    assert (pod.view(), pod.metrics.seen) == (RecordView(without_model=True), [(0, 0)])


async def test_a_pod_without_a_record_knows_nothing_of_a_model(pod: Pod) -> None:
    """A deleted record of a running release makes no new pod ready."""
    pod.record, poller = None, pod.poller()
    assert await poller._look() is False
    assert pod.view() == RecordView()
    pod.record = EMPTY
    await poller._look()
    assert pod.view().without_model
    pod.record = StoreDownError("no answer")
    await poller._look()
    assert pod.view() == RecordView(error="no answer")


async def test_a_pod_that_only_waits_for_its_workers_looks_again_soon(pod: Pod) -> None:
    at = pod.target(4)
    pod.record = record(at)
    assert await pod.poller(workers=2)._look() is True
    assert pod.view() == RecordView(target=at)
    pod.record = StoreDownError("no answer")
    assert await pod.poller(workers=2)._look() is False


async def test_a_pod_that_was_not_ready_turns_ready_at_the_next_look(
    pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    at = pod.target(4)
    await pod.serves(at, RecordView(target=at))
    pod.record, poller = record(at), pod.poller()
    for _ in range(2):
        assert await poller._look() is False
        assert pod.view() == RecordView(target=at, ready=True)
    (ready,) = [entry for entry in caplog.records if hasattr(entry, "epoch")]
    assert (ready.epoch, ready.version) == (4, "4")


async def test_a_commit_before_the_last_look_keeps_the_pod_unready(pod: Pod) -> None:
    at = pod.target(4)
    await pod.serves(at, RecordView(target=at))
    pod.record = record(at)

    def commit_after_the_first_read() -> None:
        if pod.reads == 2:
            pod.record = record(ServingTarget(5, "5", "5" * 64))

    pod.at_read = commit_after_the_first_read
    assert await pod.poller()._look() is True
    assert not pod.view().ready


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_pod_behind_the_record_stays_unready_when_the_last_look_gets_no_answer(
    pod: Pod, restarted: bool
) -> None:
    old, new = pod.target(4), pod.target(5)
    await pod.serves(old, RecordView(target=old))
    write(pod_state_path(pod.state), PodState(restarted=restarted).serving(old, "peer"))
    pod.refuses, pod.record = True, record(new)

    def fall_silent_after_the_try() -> None:
        if pod.reads > 2:
            pod.record = StoreDownError("no answer")

    pod.at_read = fall_silent_after_the_try
    await pod.poller()._look()
    assert (pod.view().target, pod.view().ready) == (new, False)


async def test_a_record_that_cannot_be_read_leaves_what_the_pod_knew(
    pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    at = pod.target(4)
    await pod.serves(at, RecordView(target=at, ready=True))
    poller, pod.record = pod.poller(), StoreDownError("no answer")
    for _ in range(2):
        assert await poller._look() is False
        assert pod.view() == RecordView(target=at, ready=True, error="no answer")
    # The same error is not logged again at every look, and another one is.
    assert [entry.reason for entry in caplog.records] == ["no answer"]
    pod.record = StoreDownError("no route")
    await poller._look()
    assert [entry.reason for entry in caplog.records] == ["no answer", "no route"]
    pod.record = record(at)
    await poller._look()
    assert pod.view() == RecordView(target=at, ready=True)
    assert len(caplog.records) == 2


async def test_a_record_that_went_back_is_reported_and_not_followed(pod: Pod) -> None:
    old, new = pod.target(4), pod.target(5)
    await pod.serves(new, RecordView(target=new, ready=True))
    pod.record = record(old)
    await pod.poller()._look()
    assert "went back to epoch 4" in str(pod.view().error)
    assert (pod.view().target, pod.view().ready, pod.changes()) == (old, True, 0)


async def test_a_refusal_of_the_start_is_shown_until_the_pod_has_caught_up(pod: Pod) -> None:
    at = pod.target(4)
    view = RecordView(target=at, refused="altered")
    write(record_view_path(pod.state), view)
    poller, pod.record, pod.refuses = pod.poller(), record(at), True
    await poller._look()
    assert (pod.view().refused, pod.view().ready) == ("altered", False)
    await pod.serves(at, view)
    pod.refuses, pod.record = False, StoreDownError("no answer")
    await poller._look()
    assert pod.view().refused == "altered"
    pod.record = record(at)
    await poller._look()
    assert pod.view() == RecordView(target=at, ready=True)


async def test_a_refusal_of_the_start_is_shown_until_all_workers_are_there(pod: Pod) -> None:
    at = pod.target(4)
    await pod.serves(at, RecordView(target=at, refused="altered"))
    pod.record = record(at)
    await pod.poller(workers=2)._look()
    assert pod.view() == RecordView(target=at, refused="altered")


async def test_a_look_does_not_undo_what_a_reload_wrote_during_it(pod: Pod) -> None:
    at = pod.target(4)
    await pod.serves(at, RecordView(target=at))
    pod.record = record(at)
    pod.at_read = lambda: write(record_view_path(pod.state), RecordView(target=at, ready=True))
    assert await pod.poller(workers=2)._look() is False
    assert pod.view().ready


@pytest.mark.parametrize(("seen", "written"), [(None, 4), (4, 5), (5, 4)])
async def test_a_look_keeps_the_later_of_what_it_saw_and_what_an_activation_wrote(
    pod: Pod, seen: int | None, written: int
) -> None:
    targets = {epoch: pod.target(epoch) for epoch in (4, 5)}
    pod.record, pod.refuses = record(targets[seen]) if seen else EMPTY, True
    view = RecordView(target=targets[written])
    pod.at_read = lambda: write(record_view_path(pod.state), view)
    await pod.poller()._look()
    assert pod.view().target == targets[max(seen or 0, written)]


async def test_a_view_that_is_removed_during_a_look_is_written_again(pod: Pod) -> None:
    at = pod.target(4)
    await pod.serves(at, RecordView(target=at))
    pod.record = record(at)
    pod.at_read = lambda: record_view_path(pod.state).unlink(missing_ok=True)
    await pod.poller()._look()
    assert pod.view() == RecordView(target=at, ready=True)


async def test_a_look_that_sees_nothing_new_writes_nothing(pod: Pod) -> None:
    at = pod.target(4)
    await pod.serves(at, RecordView(target=at, ready=True))
    pod.record = record(at)
    # A file that is written again is another file.
    before = record_view_path(pod.state).stat().st_ino
    await pod.poller()._look()
    assert record_view_path(pod.state).stat().st_ino == before
    # A ready pod needs no last look.
    assert pod.reads == 1


# Tries that fail.


async def tries(pod: Pod, poller: Poller) -> bool:
    """Return whether a look tries to follow the record, which reads it once more."""
    pod.reads = 0
    await poller._look()
    assert pod.view().error
    return pod.reads > 1


async def test_a_target_that_fails_is_tried_again_after_longer_and_longer_pauses(
    pod: Pod,
) -> None:
    pod.refuses, pod.record, poller = True, record(pod.target(4)), pod.poller()
    start = pod.clock.seconds
    tried = list[float]()
    for half_seconds in range(100):
        pod.clock.seconds = start + half_seconds / 2
        if await tries(pod, poller):
            tried.append(half_seconds / 2)
    # Two seconds, then twice as long each time, and never longer than 15.
    assert tried == [0.0, 2.0, 6.0, 14.0, 29.0, 44.0]
    # Another target is tried without the pause of the first one.
    pod.record = record(pod.target(5))
    assert await tries(pod, poller)
    pod.clock.seconds += 1.5
    assert not await tries(pod, poller)
    pod.clock.seconds += 0.5
    assert await tries(pod, poller)


async def test_a_worker_that_has_not_followed_is_finished_and_put_off_too(pod: Pod) -> None:
    old, new = pod.target(4), pod.target(5)
    await pod.serves(old, RecordView(target=old, ready=True))
    write(pod_state_path(pod.state), PodState().serving(new, "cache"))
    pod.refuses, pod.record, poller = True, record(new), pod.poller()
    await poller._look()
    assert pod.changes()
    error = pod.view().error
    assert error
    pod.clock.seconds += 1.0
    await poller._look()
    assert (pod.changes(), pod.view().error) == (0, error)
    pod.clock.seconds, pod.refuses = pod.clock.seconds + 1.0, False
    await poller._look()
    assert (pod.view().error, pod.view().target) == (None, new)
    assert pod.worker.serving is not None
    assert pod.worker.serving.target == new


async def test_a_target_that_served_in_between_is_tried_without_a_pause(pod: Pod) -> None:
    at = pod.target(4)
    pod.refuses, pod.record, poller = True, record(at), pod.poller()
    await poller._look()
    assert pod.changes()
    await pod.serves(at, RecordView(target=at))
    await poller._look()
    pod.changes()
    # The worker restarts and serves nothing.
    pod.worker.serving = None
    await poller._look()
    assert pod.changes()


# A rollout whose own version this pod cannot load.


async def test_a_pod_says_that_it_serves_the_records_version_and_why(pod: Pod) -> None:
    old, new = pod.target(4), ServingTarget(5, "5", "5" * 64)
    pod.record = record(old, reserved=new)
    await pod.poller(template=new)._look()
    assert read_pod_state(pod.state).target == pod.view().target == old
    error = str(pod.view().error)
    assert "the rollout's version was refused" in error
    assert "version 5" in error
    assert pod.view().ready


async def test_a_pod_that_can_load_neither_names_both_reasons(pod: Pod) -> None:
    old, new = ServingTarget(4, "4", "4" * 64), ServingTarget(5, "5", "5" * 64)
    pod.record = record(old, reserved=new)
    await pod.poller(template=new)._look()
    error = str(pod.view().error)
    assert "version 5" in error
    assert "version 4" in error
    assert not pod.view().ready


@pytest.mark.parametrize("template", [False, True])
async def test_a_pod_without_another_version_to_serve_gives_the_one_reason(
    pod: Pod, template: bool
) -> None:
    new = ServingTarget(5, "5", "5" * 64)
    reserved = msgspec.structs.replace(record(new, reserved=new), current=None)
    pod.record = reserved if template else record(new)
    await pod.poller(template=new if template else None)._look()
    error = str(pod.view().error)
    assert error.count("version 5") == 1
    assert "rollout" not in error
