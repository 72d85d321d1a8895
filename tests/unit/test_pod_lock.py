"""The lock of a pod, which serialises the calls that change it."""

import asyncio
import fcntl
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import EMPTY, ServingTarget
from fraudops.state import State
from services.inference.pod import coordinator
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.state import pod_state_path, write
from services.inference.pod.worker_channel import RunFolder
from services.inference.pod.workers import Workers

AT_5 = ServingTarget(5, "5", "5" * 64)
ACTS: dict[str, Callable[[PodCoordinator], Awaitable[None]]] = {
    "prepare": lambda pod: pod.prepare(AT_5, 0.2),
    "activate": lambda pod: pod.activate(seconds=0.2),
    "finish": lambda pod: pod.finish(),
    "follow": lambda pod: pod.follow_without_template(),
}


@pytest.fixture
def pod(tmp_path: Path) -> PodCoordinator:
    """A pod without a worker, without a bundle, and with an empty record."""
    state = State.at(tmp_path)
    state.run.mkdir()
    run = RunFolder(state.run)
    cache = BundleCache(state.bundles, run, state.public_keys)
    return PodCoordinator(state, Workers(run, 1), cache, lambda: EMPTY, None)


def take_lock(pod: PodCoordinator) -> int:
    """Take the lock as another worker does; closing the descriptor frees it."""
    descriptor = os.open(pod.state.run / "pod.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


@pytest.mark.parametrize("act", ACTS)
async def test_a_call_that_does_not_get_the_lock_changes_nothing(
    pod: PodCoordinator, monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    for name in ("ACTIVATE_SECONDS", "PREPARE_SECONDS"):
        monkeypatch.setattr(coordinator, name, 0.2)
    descriptor = take_lock(pod)
    with pytest.raises(StoreDownError, match="another call to this pod is not done yet"):
        async with asyncio.timeout(10):
            await ACTS[act](pod)
    os.close(descriptor)


async def test_a_call_waits_for_the_lock_and_frees_it(pod: PodCoordinator) -> None:
    descriptor = take_lock(pod)
    waiting = asyncio.create_task(pod.activate(seconds=30.0))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    os.close(descriptor)
    for call in (waiting, pod.activate(seconds=0.0)):
        with pytest.raises(RefusedError, match="no model has been promoted"):
            await call


async def test_only_the_owner_may_open_the_lock(pod: PodCoordinator) -> None:
    await pod.finish()
    assert stat.S_IMODE((pod.state.run / "pod.lock").stat().st_mode) == 0o600


async def test_a_disk_that_fails_under_the_lock_may_be_well_later(pod: PodCoordinator) -> None:
    (pod.state.run / "pod.lock").mkdir()
    with pytest.raises(StoreDownError, match=r"cannot use its state folder \(Is a directory"):
        await pod.finish()


async def test_a_refusal_under_the_lock_stays_one(pod: PodCoordinator) -> None:
    write(pod_state_path(pod.state), PodState(epoch=9))
    with pytest.raises(FraudopsError, match="behind epoch 9") as refusal:
        await pod.prepare(AT_5, 1.0)
    assert type(refusal.value) is RefusedError
