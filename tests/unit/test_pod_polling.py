"""The loop of a pod's poller: which worker polls, how often, and what a full disk does."""

import asyncio
import contextlib
import fcntl
import os
import stat
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import (
    EMPTY,
    ServingRecord,
    ServingTarget,
)
from fraudops.state import State
from services.inference.metrics import Metrics
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.poller import Poller
from services.inference.pod.state import pod_state_path, record_view_path, write
from services.inference.pod.worker_channel import Ask, Reply, RunFolder
from services.inference.pod.workers import Workers
from tests.support.serving_records import record

AT_4 = ServingTarget(4, "1", "1" * 64)
NEVER = 3600.0


@dataclass
class Pod:
    state: State
    run: RunFolder
    record: ServingRecord = EMPTY
    reads: int = 0

    def read(self) -> ServingRecord:
        self.reads += 1
        return self.record

    @contextlib.asynccontextmanager
    async def polls(self, poll_seconds: float) -> AsyncIterator[asyncio.Task[None]]:
        cache = BundleCache(self.state.bundles, self.run, self.state.public_keys)
        pod = PodCoordinator(self.state, Workers(self.run, 1), cache, self.read, None)
        polling = asyncio.create_task(Poller(pod, Metrics(self.state.root), poll_seconds).run())
        try:
            yield polling
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)

    async def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            await asyncio.sleep(0.02)

    def has_looked_again(self) -> Callable[[], bool]:
        reads = self.reads
        return lambda: self.reads > reads + 1


@pytest.fixture
def pod(tmp_path: Path) -> Pod:
    state = State.at(tmp_path)
    for folder in (state.run, state.bundles):
        folder.mkdir()
    return Pod(state, RunFolder(state.run))


def take_lock(pod: Pod) -> int:
    """Take the poller's lock as another worker does; closing the descriptor frees it."""
    descriptor = os.open(pod.state.run / "poller.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


async def test_only_the_worker_with_the_lock_polls_and_the_next_one_takes_over(pod: Pod) -> None:
    descriptor = take_lock(pod)
    async with pod.polls(0.02):
        await asyncio.sleep(0.2)
        assert pod.reads == 0
        os.close(descriptor)
        await pod.until(pod.has_looked_again())
        with pytest.raises(BlockingIOError):
            take_lock(pod)
    os.close(take_lock(pod))


async def test_only_the_owner_may_open_the_pollers_lock(pod: Pod) -> None:
    async with pod.polls(NEVER):
        await pod.until(lambda: pod.reads > 0)
    assert stat.S_IMODE((pod.state.run / "poller.lock").stat().st_mode) == 0o600


async def test_a_poller_waits_between_two_looks(pod: Pod) -> None:
    async with pod.polls(NEVER):
        await pod.until(lambda: pod.reads > 0)
        await asyncio.sleep(0.3)
        assert pod.reads == 1


async def test_a_poller_looks_again_soon_while_the_workers_start(pod: Pod) -> None:
    pod.record = record(AT_4)
    write(pod_state_path(pod.state), PodState().serving(AT_4, "cache"))

    async def serves(ask: Ask) -> Reply:
        return Reply(pid=os.getpid(), target=AT_4)

    async with pod.polls(NEVER):
        await pod.until(pod.has_looked_again())
        listener = await pod.run.serve(serves)
        # Once the pod is ready, the poller waits for its usual time.
        await asyncio.sleep(0.5)
        reads = pod.reads
        await asyncio.sleep(0.3)
        assert pod.reads == reads
    listener.close()


async def test_a_disk_that_fails_does_not_end_the_poller(pod: Pod) -> None:
    record_view_path(pod.state).mkdir()
    async with pod.polls(0.02) as polling:
        await asyncio.sleep(0.2)
        assert not polling.done()
        record_view_path(pod.state).rmdir()
        await pod.until(pod.has_looked_again())


async def test_a_poller_does_not_ask_a_failing_disk_all_the_time(
    pod: Pod, caplog: pytest.LogCaptureFixture
) -> None:
    record_view_path(pod.state).mkdir()
    async with pod.polls(NEVER):
        await pod.until(lambda: len(caplog.records) > 0)
        await asyncio.sleep(0.3)
    assert len(caplog.records) == 1
