"""A pod's coordinator and poller over one real worker in this process.

The record is a function here, so that a test decides what each read returns.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import (
    EMPTY,
    ServingRecord,
    ServingTarget,
)
from fraudops.state import State
from services.inference.folders import VERIFIED
from services.inference.metrics import Metrics
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.poller import Poller
from services.inference.pod.state import pod_state_path, read_pod_state, read_record_view, write
from services.inference.pod.worker import Drain, Worker
from services.inference.pod.worker_channel import RunFolder
from services.inference.pod.workers import Workers
from tests.support.bundles import write_linear_bundle
from tests.support.serving_records import record
from tests.support.waiting import eventually


@dataclass
class OneWorkerPod:
    """A pod with one worker. Each read takes the next of `answers`; the last one stays."""

    state: State
    answers: list[ServingRecord | Exception] = field(default_factory=list)
    ready_at: list[tuple[bool, int]] = field(default_factory=list)

    def target(self, epoch: int, seed: int) -> ServingTarget:
        """Put a bundle into the cache, as the bundle verifier leaves it.

        The pod removes it when it goes to another model, unless a worker has prepared it.
        """
        made = self.state.root / "made"
        digest = write_linear_bundle(made, seed)
        made.rename(self.state.bundles / digest)
        (self.state.run / f"{VERIFIED}{digest}").write_text(f"{seed} ")
        return ServingTarget(epoch, str(seed), digest)

    def read(self) -> ServingRecord:
        self.ready_at.append((read_record_view(self.state).ready, read_pod_state(self.state).epoch))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @contextlib.asynccontextmanager
    async def started(
        self, template: ServingTarget | None = None, workers: int = 1
    ) -> AsyncIterator[tuple[PodCoordinator, Worker]]:
        metrics, run = Metrics(self.state.metrics), RunFolder(self.state.run)
        worker = Worker(self.state.bundles, metrics, Drain())
        cache = BundleCache(self.state.bundles, run, self.state.public_keys)
        pod = PodCoordinator(self.state, Workers(run, workers), cache, self.read, template)
        listener = await run.serve(worker.answer)
        polling = asyncio.create_task(Poller(pod, metrics, 0.02).run())
        try:
            yield pod, worker
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
            listener.close()

    async def until(self, condition: Callable[[], bool]) -> None:
        def check() -> None:
            assert condition()

        await asyncio.to_thread(eventually, check)

    def is_ready(self) -> bool:
        return read_record_view(self.state).ready


@pytest.fixture
def pod(tmp_path: Path) -> OneWorkerPod:
    state = State.at(tmp_path)
    for folder in (state.run, state.bundles, state.metrics):
        folder.mkdir()
    return OneWorkerPod(state)


async def test_a_pod_turns_ready_once_its_worker_serves_what_the_record_names(
    pod: OneWorkerPod,
) -> None:
    at = pod.target(4, 1)
    pod.answers = [EMPTY, EMPTY, record(at)]
    async with pod.started() as (_, worker):
        await pod.until(pod.is_ready)
        assert worker.serving is not None
        assert worker.serving.target == read_pod_state(pod.state).target == at
    assert read_record_view(pod.state).target == at


async def test_a_promotion_that_commits_before_the_last_look_keeps_the_pod_unready(
    pod: OneWorkerPod,
) -> None:
    before, after = pod.target(4, 1), pod.target(5, 2)
    pod.answers = [EMPTY]
    async with pod.started() as (coordinator, _):
        await coordinator.prepare(after, 60)
        # The poller's read and that of its activation come before the commit, the last look after.
        pod.answers = [record(before), record(before), record(after)]
        await pod.until(pod.is_ready)
    assert (True, 4) not in pod.ready_at
    assert (False, 4) in pod.ready_at
    assert read_pod_state(pod.state).target == after


async def test_a_pod_that_saw_a_commit_in_its_last_look_stays_unready_when_reads_fail(
    pod: OneWorkerPod,
) -> None:
    before, after = pod.target(4, 1), pod.target(5, 2)
    away = StoreDownError("no answer")
    pod.answers = [record(before), record(before), record(after), away]
    async with pod.started():
        await pod.until(lambda: len(pod.ready_at) > 5)
    assert (True, 4) not in pod.ready_at
    assert read_record_view(pod.state).target == after


@pytest.mark.parametrize("restarted", [False, True])
async def test_only_a_restarted_container_turns_ready_when_the_last_look_gets_no_answer(
    pod: OneWorkerPod, restarted: bool
) -> None:
    write(pod_state_path(pod.state), PodState(restarted=restarted))
    at = pod.target(4, 1)
    pod.answers = [record(at), record(at), StoreDownError("no answer")]
    async with pod.started():
        if restarted:
            await pod.until(pod.is_ready)
        else:
            await pod.until(lambda: len(pod.ready_at) > 20)
            assert not pod.is_ready()
            pod.answers = [record(at)]
            await pod.until(pod.is_ready)
    assert read_pod_state(pod.state).target == at


async def test_a_pod_is_not_ready_before_all_its_workers_are_there(pod: OneWorkerPod) -> None:
    at = pod.target(4, 1)
    pod.answers = [record(at)]
    async with pod.started(workers=2) as (_, worker):
        await pod.until(lambda: worker.serving is not None)
        await pod.until(lambda: len(pod.ready_at) > 5)
    assert (True, 4) not in pod.ready_at


async def test_a_pod_of_a_rollout_that_serves_nothing_awaits_its_templates_target(
    pod: OneWorkerPod,
) -> None:
    current, new = pod.target(4, 1), pod.target(5, 2)
    for at in (current, new):
        (pod.state.run / f"{VERIFIED}{at.digest}").unlink()
    pod.answers = [record(current, reserved=new)]
    async with pod.started(template=new):
        await pod.until(lambda: read_record_view(pod.state).target == new)


async def test_a_pod_of_a_rollout_serves_the_records_own_model_if_it_cannot_load_its_own(
    pod: OneWorkerPod,
) -> None:
    current, new = pod.target(4, 1), pod.target(5, 2)
    (pod.state.run / f"{VERIFIED}{new.digest}").unlink()
    pod.answers = [record(current, reserved=new)]
    async with pod.started(template=new):
        await pod.until(lambda: pod.is_ready() and read_record_view(pod.state).error is not None)
    view = read_record_view(pod.state)
    assert (view.target, read_pod_state(pod.state).target) == (current, current)
    assert str(view.error).startswith("the rollout's version was refused")


async def test_a_pod_that_a_dead_coordinator_left_is_finished_from_its_state(
    pod: OneWorkerPod,
) -> None:
    pod.answers = [record(pod.target(4, 1))]
    async with pod.started() as (_, worker):
        await pod.until(pod.is_ready)
        after = pod.target(5, 2)
        # The coordinator died here: the state file is written, and no worker is activated.
        write(pod_state_path(pod.state), PodState().serving(after, "cache"))
        pod.answers = [record(after)]
        await pod.until(lambda: worker.serving is not None and worker.serving.target == after)


async def test_a_prepare_changes_nothing_that_serves_and_refuses_a_lower_epoch(
    pod: OneWorkerPod,
) -> None:
    current = pod.target(4, 1)
    pod.answers = [record(current)]
    async with pod.started() as (coordinator, worker):
        await pod.until(pod.is_ready)
        new = pod.target(5, 2)
        await coordinator.prepare(new, 60)
        (answer,) = await coordinator.workers.states()
        assert answer.reply is not None
        assert (answer.reply.target, answer.reply.prepared) == (current, {new.digest: "cache"})
        with pytest.raises(RefusedError, match="epoch 3 is behind epoch 4"):
            await coordinator.prepare(ServingTarget(3, "2", new.digest), 60)
        assert worker.serving is not None
        assert worker.serving.target == current


async def test_a_prune_keeps_what_served_and_what_is_prepared(pod: OneWorkerPod) -> None:
    served = list[ServingTarget]()
    prepared = pod.target(9, 9)
    pod.answers = [EMPTY]
    async with pod.started() as (coordinator, _):
        await coordinator.prepare(prepared, 60)
        for epoch in range(1, 7):
            served.append(pod.target(epoch, epoch))
            pod.answers = [record(served[-1])]
            await coordinator.activate(ServingTarget(epoch, "", ""))
    kept = {path.name for path in pod.state.bundles.iterdir()}
    assert kept == {at.digest for at in (*served[2:], prepared)}
