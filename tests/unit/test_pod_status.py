"""A pod's status before the first promotion, and while the record's store does not answer."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import EMPTY, ServingRecord, ServingTarget
from fraudops.state import State
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.state import RecordView, pod_state_path, record_view_path, write
from services.inference.pod.status import NotReadyError, Ready, Status
from services.inference.pod.worker import Drain
from services.inference.pod.worker_channel import Ask, Reply, RunFolder
from services.inference.pod.worker_states import KEPT_SECONDS
from services.inference.pod.workers import Workers

TARGET = ServingTarget(4, "1", "1" * 64)
NAMES_NONE = RecordView(without_model=True)


def status_of(
    state: State, read_record: Callable[[], ServingRecord], ready_without_model: bool = False
) -> Status:
    run = RunFolder(state.run)
    pod = PodCoordinator(
        state,
        Workers(run, 1),
        BundleCache(state.bundles, run, state.public_keys),
        read_record,
        None,
    )
    return Status(pod, "pod", "model", "spool", Drain(), ready_without_model)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("no valid signature", "no valid signature"),
        ("no database", "no valid signature; no database"),
    ],
)
def test_a_reason_of_both_start_and_record_is_named_once(
    tmp_path: Path, error: str, expected: str
) -> None:
    state = State.at(tmp_path)
    state.run.mkdir()
    view = RecordView(refused="no valid signature", error=error)
    write(record_view_path(state), view)
    assert status_of(state, lambda: EMPTY).why_no_model() == expected


@pytest.mark.parametrize(
    ("switched_on", "view", "now", "reason"),
    [
        (True, NAMES_NONE, PodState(), None),
        (False, NAMES_NONE, PodState(), "no model promoted"),
        # No look yet, no record, a record that cannot be read, one that names a model.
        (True, RecordView(), PodState(), "no model promoted"),
        (True, RecordView(error="no answer"), PodState(), "no answer"),
        (True, RecordView(target=TARGET), PodState(), "version 1 is being opened"),
        # The pod has served since the poller looked, or its bundle was refused at the restart.
        (True, NAMES_NONE, PodState().serving(TARGET, "peer"), "the pod is starting"),
        (True, NAMES_NONE, PodState(epoch=4), "no model promoted"),
    ],
)
async def test_a_pod_without_a_model_is_ready_while_none_was_ever_promoted(
    tmp_path: Path, switched_on: bool, view: RecordView, now: PodState, reason: str | None
) -> None:
    state = State.at(tmp_path)
    state.run.mkdir()
    write(record_view_path(state), view)
    write(pod_state_path(state), now)
    status = status_of(state, lambda: EMPTY, switched_on)
    if reason is None:
        assert await status.ready() == Ready("ready", 0, None, None, [])
        assert await status.is_ready()
    else:
        with pytest.raises(NotReadyError, match=reason):
            await status.ready()
    # A request cannot be answered in any case.
    assert status.why_no_model()


async def test_a_drain_and_a_silent_worker_make_that_pod_unready(tmp_path: Path) -> None:
    state = State.at(tmp_path)
    state.run.mkdir()
    write(record_view_path(state), NAMES_NONE)
    status = status_of(state, lambda: EMPTY, ready_without_model=True)
    run = RunFolder(state.run)
    listener = await run.serve(refusing)
    with pytest.raises(NotReadyError, match="it has no memory"):
        await status.ready()
    listener.close()
    run.forget(os.getpid())
    assert await status.is_ready()
    status._drain.begin()
    with pytest.raises(NotReadyError, match="it drains"):
        await status.ready()


async def refusing(_ask: Ask) -> Reply:
    return Reply(pid=os.getpid(), error="it has no memory")


async def test_one_thread_reads_the_record_for_all_concurrent_requests(tmp_path: Path) -> None:
    state = State.at(tmp_path)
    state.run.mkdir()
    answered, readers = threading.Event(), list[int]()
    loop, reading = asyncio.get_running_loop(), asyncio.Event()

    def hanging() -> ServingRecord:
        readers.append(threading.get_ident())
        loop.call_soon_threadsafe(reading.set)
        answered.wait(20)
        return EMPTY

    status = status_of(state, hanging)
    asking = [asyncio.create_task(status.model_info()) for _ in range(100)]
    try:
        async with asyncio.timeout(10):
            await reading.wait()
            await asyncio.to_thread(int)
    finally:
        answered.set()
        shown = await asyncio.gather(*asking)
    assert len(readers) == 1
    assert all(info.model.epoch == 0 for info in shown)


class Answering:
    """A worker that serves a target, and counts how often it is asked."""

    def __init__(self, target: ServingTarget | None) -> None:
        self.target, self.asked = target, 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, _ask: Ask) -> Reply:
        self.asked += 1
        await self.may_answer.wait()
        return Reply(pid=os.getpid(), target=self.target)


async def test_the_workers_are_asked_once_for_all_that_ask_whether_the_pod_is_ready(
    tmp_path: Path,
) -> None:
    """More connections than the backlog of a socket would make the pod unready."""
    state = State.at(tmp_path)
    state.run.mkdir()
    write(record_view_path(state), RecordView(target=TARGET, ready=True))
    write(pod_state_path(state), PodState().serving(TARGET, "peer"))
    status, worker, now = status_of(state, lambda: EMPTY), Answering(TARGET), [100.0]
    status._workers._clock = lambda: now[0]
    listener = await RunFolder(state.run).serve(worker)
    worker.may_answer.clear()
    asking = [asyncio.create_task(status.ready()) for _ in range(300)]
    while not worker.asked:  # noqa: ASYNC110 (the worker is asked over its socket)
        await asyncio.sleep(0)
    asking[0].cancel()
    worker.may_answer.set()
    first, *others = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(first, asyncio.CancelledError)
    assert all(isinstance(each, Ready) for each in others)
    assert worker.asked == 1
    # The answer is kept for a moment.
    assert await status.is_ready()
    assert worker.asked == 1
    now[0] += KEPT_SECONDS
    assert await status.is_ready()
    assert worker.asked == 2
    # A change of the pod needs new answers, and so does the call that has made it.
    later = ServingTarget(5, "2", "2" * 64)
    write(pod_state_path(state), PodState().serving(later, "peer"))
    assert not await status.is_ready()
    worker.target = later
    # An answer that makes the pod unready is never kept.
    assert await status.is_ready()
    assert worker.asked == 4
    await status.reloaded()
    assert worker.asked == 5
    listener.close()
