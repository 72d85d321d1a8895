"""The permits of large requests."""

import asyncio

import pytest

from services.inference.http.bodies import Permits
from services.inference.http.problems import BusyError


class Waits:
    """Metrics that remember the kinds of waits."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def waited(self, kind: str, seconds: float) -> None:
        assert seconds >= 0
        self.kinds.append(kind)


async def test_permits_are_given_in_the_order_in_which_requests_wait() -> None:
    metrics = Waits()
    permits = Permits("batches", 1, metrics, wait_seconds=60)  # type: ignore[arg-type]
    order, may_end = [], asyncio.Event()

    async def work(number: int) -> None:
        async with permits.taken():
            order.append(number)
            await may_end.wait()

    tasks = [asyncio.create_task(work(number)) for number in range(3)]
    await asyncio.sleep(0.01)
    assert order == [0]
    may_end.set()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]
    assert metrics.kinds == ["batches"] * 3


@pytest.mark.parametrize("error", [None, ValueError, asyncio.CancelledError])
async def test_a_permit_is_free_again_after_any_end(error: type[BaseException] | None) -> None:
    permits = Permits("labels", 1, Waits(), wait_seconds=0.05)  # type: ignore[arg-type]

    async def work() -> None:
        async with permits.taken():
            if error:
                raise error

    await asyncio.gather(asyncio.create_task(work()), return_exceptions=True)
    async with permits.taken():
        with pytest.raises(BusyError):
            async with permits.taken():
                pass
    async with permits.taken():
        pass
