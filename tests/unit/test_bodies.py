"""Bodies: their time limit, their budget and the permits of large requests."""

import asyncio
from contextlib import ExitStack
from typing import Any, cast

import pytest

from fraudops.errors import FraudopsError
from services.inference.http import bodies
from services.inference.http.bodies import (
    RESERVE_BYTES,
    SINGLE_BYTES,
    Arrival,
    BodyBudget,
    BodyReader,
    HeldBody,
)
from services.inference.http.problems import (
    BodyTooLargeError,
    BusyError,
    CutOffError,
    NotHttpError,
    SlowBodyError,
    StalledBodyError,
)

LIMIT = 32 << 20


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Client:
    """Sends parts of a body; None stands for a pause without an end."""

    def __init__(self, *parts: bytes | None, gone: bool = False) -> None:
        self.parts, self.gone = list(parts), gone

    async def __call__(self) -> dict[str, Any]:
        if not self.parts:
            assert self.gone
            return {"type": "http.disconnect"}
        part = self.parts.pop(0)
        if part is None:
            await asyncio.sleep(3600)
        more = bool(self.parts) or self.gone
        return {"type": "http.request", "body": part, "more_body": more}


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "POLL_SECONDS", 0)


async def read(
    client: Client,
    limit: int = 100,
    announced: int | None = None,
    seconds: float = 60,
    arrival: Arrival | None = None,
) -> bytes:
    budget = BodyBudget(LIMIT)
    reader = BodyReader(client, arrival or Arrival(0.0), seconds)
    try:
        with budget.body(single=True) as held:
            return await reader.whole(limit, announced, held, budget)
    finally:
        assert budget.used == 0


async def test_a_body_is_joined_from_its_parts() -> None:
    assert await read(Client(b"ab", b"", b"c")) == b"abc"
    assert await read(Client(b"")) == b""


@pytest.mark.parametrize(
    ("client", "error"),
    [
        (Client(b"x" * 60, b"x" * 41), BodyTooLargeError),
        (Client(b"x", gone=True), CutOffError),
        # The first part has the time limit too.
        (Client(None), SlowBodyError),
        (Client(b"x", None), SlowBodyError),
    ],
)
async def test_a_body_that_is_not_accepted(client: Client, error: type[FraudopsError]) -> None:
    with pytest.raises(error):
        await read(client, seconds=0.05)


async def test_an_announced_length_above_the_limit_is_refused_unread() -> None:
    client = Client(b"x" * 200)
    with pytest.raises(BodyTooLargeError):
        await read(client, announced=101)
    assert client.parts


async def test_a_fault_of_the_wire_is_the_fault_of_the_body() -> None:
    arrival = Arrival(0.0, fault=NotHttpError("it is malformed"))
    with pytest.raises(NotHttpError):
        await read(Client(b"x", b"y"), arrival=arrival)
    assert arrival.most_wire_bytes == 200 + SINGLE_BYTES


async def test_a_stream_has_the_time_limit_for_each_part() -> None:
    reader = BodyReader(Client(b"a", b"b"), Arrival(0.0), 60)
    assert [part async for part in reader.parts()] == [b"a", b"b"]
    with pytest.raises(SlowBodyError):
        async for _ in BodyReader(Client(b"a", None), Arrival(0.0), 0.05).parts():
            pass


def reading(body: HeldBody) -> asyncio.Timeout:
    """Let a body be read, so that it can be cut."""
    body.reading = asyncio.timeout(None)
    return body.reading


async def test_large_bodies_cannot_take_the_reserve_of_single_ones() -> None:
    clock = Clock()
    budget = BodyBudget(LIMIT, clock)
    with budget.body(single=False) as large, budget.body(single=True) as single:
        await budget.add(large, LIMIT - RESERVE_BYTES)
        await budget.add(single, SINGLE_BYTES)
        waiting = asyncio.create_task(budget.add(large, 1))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        clock.now += bodies.WAIT_SECONDS
        with pytest.raises(BusyError):
            await waiting
        await budget.add(single, RESERVE_BYTES - SINGLE_BYTES)
        assert budget.used == LIMIT
    assert budget.used == 0


async def test_a_body_that_waits_goes_on_when_another_ends() -> None:
    budget = BodyBudget(LIMIT, Clock())
    with budget.body(single=False) as waiting:
        with budget.body(single=False) as first:
            await budget.add(first, LIMIT - RESERVE_BYTES)
            task = asyncio.create_task(budget.add(waiting, 10))
            await asyncio.sleep(0.01)
            assert not task.done()
        await task
    assert budget.used == 0


async def test_the_largest_stalled_body_is_cut_and_no_other() -> None:
    clock = Clock()
    budget = BodyBudget(LIMIT, clock)
    with ExitStack() as stack:
        small, largest, recent, complete, late = (
            stack.enter_context(budget.body(single=False)) for _ in range(5)
        )
        for body, size in ((small, 4), (largest, 6), (complete, 7)):
            await budget.add(body, size << 20)
        clock.now += 5
        await budget.add(recent, 7 << 20)
        cut = []
        for body in (small, largest, recent, late):

            async def until_cut(body: HeldBody = body) -> None:
                try:
                    async with reading(body):
                        await asyncio.sleep(3600)
                except TimeoutError:
                    cut.append(body)
                    budget.used -= body.size
                    body.size = 0

            stack.callback(asyncio.create_task(until_cut()).cancel)
        await asyncio.sleep(0)
        await budget.add(late, 5 << 20)
        assert cut == [largest]
        assert largest.stalled


async def test_a_cut_body_says_why() -> None:
    clock = Clock()
    budget = BodyBudget(LIMIT, clock)
    client = Client(b"x" * (LIMIT - RESERVE_BYTES), None)
    with budget.body(single=False) as stalled, budget.body(single=False) as other:
        reader = BodyReader(client, Arrival(0.0), 60)
        task = asyncio.create_task(reader.whole(LIMIT, None, stalled, budget))
        await asyncio.sleep(0.01)
        clock.now += bodies.STALLED_SECONDS
        adding = asyncio.create_task(budget.add(other, 1))
        with pytest.raises(StalledBodyError):
            await task
        clock.now += bodies.WAIT_SECONDS
        with pytest.raises(BusyError):
            # The body that was cut still counts until its request has ended.
            await adding


async def test_only_some_bodies_wait_at_the_same_time() -> None:
    budget = BodyBudget(LIMIT, Clock())
    with ExitStack() as stack:
        first = stack.enter_context(budget.body(single=False))
        await budget.add(first, LIMIT - RESERVE_BYTES)
        tasks = []
        for _ in range(bodies.MOST_WAITING):
            body = stack.enter_context(budget.body(single=False))
            tasks.append(asyncio.create_task(budget.add(body, 1)))
        await asyncio.sleep(0.01)
        with pytest.raises(BusyError):
            await budget.add(stack.enter_context(budget.body(single=False)), 1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Limit:
    """Stands for the time limit of a body that is read; nothing is cancelled."""

    def expired(self) -> bool:
        return False

    def reschedule(self, when: float) -> None:
        pass


async def test_a_body_that_drips_is_cut_and_one_that_arrives_is_not() -> None:
    """Any byte would otherwise renew it, and four such bodies would stop all large ones."""
    clock = Clock()
    budget = BodyBudget(LIMIT, clock)
    with ExitStack() as stack:
        drips, arrives, late = (stack.enter_context(budget.body(single=False)) for _ in range(3))
        for body, size in ((drips, 9), (arrives, 10)):
            await budget.add(body, size << 20)
            body.reading = cast(asyncio.Timeout, Limit())
        for part in (1, bodies.STEP_BYTES - 2):
            clock.now += 0.9
            await budget.add(drips, part)
            await budget.add(arrives, bodies.STEP_BYTES)
        waiting = asyncio.create_task(budget.add(late, 5 << 20))
        await asyncio.sleep(0)
        assert (drips.stalled, arrives.stalled) == (True, False)
        waiting.cancel()


async def test_a_body_that_waited_for_room_is_not_one_that_drips() -> None:
    clock = Clock()
    budget = BodyBudget(LIMIT, clock)
    with ExitStack() as stack:
        waited, late = (stack.enter_context(budget.body(single=False)) for _ in range(2))
        await budget.add(waited, 20 << 20)
        with budget.body(single=False) as first:
            await budget.add(first, 4 << 20)
            task = asyncio.create_task(budget.add(waited, 1))
            await asyncio.sleep(0)
            clock.now += 0.9
        await task
        waited.reading = cast(asyncio.Timeout, Limit())
        clock.now += 0.9
        waiting = asyncio.create_task(budget.add(late, 5 << 20))
        await asyncio.sleep(0)
        assert not waited.stalled
        clock.now += 0.1
        await asyncio.sleep(0.01)
        assert waited.stalled
        waiting.cancel()


async def test_a_body_whose_time_is_over_in_the_same_turn_is_not_cut() -> None:
    """asyncio refuses to change such a time limit, and the request that waits would get 500."""
    clock, asked = Clock(), list[BodyBudget]()
    budget = BodyBudget(LIMIT, clock)

    def look() -> None:
        budget._cut_stalled()
        asked.append(budget)

    async def read(held: HeldBody) -> None:
        async with reading(held) as limit:
            limit.reschedule(0)
            # It runs between the end of the time limit and the task that this cancels.
            asyncio.get_running_loop().call_soon(look)
            await asyncio.sleep(3600)

    with budget.body(single=False) as held:
        await budget.add(held, 1)
        clock.now += bodies.STALLED_SECONDS
        with pytest.raises(TimeoutError):
            await read(held)
        assert asked
        assert not held.stalled
