"""A pod's status while the store of the serving record does not answer."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fraudops.promotion.serving_record import EMPTY, ServingRecord
from fraudops.state import State
from services.inference.pod.bundle_cache import BundleCache
from services.inference.pod.coordinator import PodCoordinator
from services.inference.pod.state import RecordView, record_view_path, write
from services.inference.pod.status import Status
from services.inference.pod.worker import Drain
from services.inference.pod.worker_channel import RunFolder
from services.inference.pod.workers import Workers


def status_of(state: State, read_record: Callable[[], ServingRecord]) -> Status:
    run = RunFolder(state.run)
    pod = PodCoordinator(
        state,
        Workers(run, 1),
        BundleCache(state.bundles, run, state.public_keys),
        read_record,
        None,
    )
    return Status(pod, "pod", "model", "spool", Drain())


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
