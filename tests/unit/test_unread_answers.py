"""Large answers: their bytes, and which are cut when clients do not read them."""

import asyncio

import pytest

from services.inference.http.bodies import STALLED_SECONDS, STEP_BYTES
from services.inference.http.unread_answers import UnreadAnswers

BODY = bytes(range(256)) * (10 * STEP_BYTES // 256) + b"end"


class Client:
    """Reads as many parts of its answer as it may."""

    def __init__(self, parts: int = 1000) -> None:
        self.received = b""
        self._may_read = asyncio.Semaphore(parts)

    async def __call__(self, part: bytes) -> None:
        await self._may_read.acquire()
        self.received += part

    async def reads(self) -> None:
        """Read one more part."""
        self._may_read.release()
        for _ in range(3):
            await asyncio.sleep(0)


class Site:
    """The answers of a worker that has room for five, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answers = UnreadAnswers(5 * len(BODY), lambda: self.now)

    async def begun(self, client: Client, body: bytes = BODY) -> "asyncio.Task[bool]":
        task = asyncio.create_task(self.answers.write(body, client))
        await asyncio.sleep(0)
        return task


async def test_an_answer_is_written_in_parts_and_counts_until_it_is_read() -> None:
    site, client = Site(), Client(3)
    task = await site.begun(client)
    assert client.received == BODY[: 3 * STEP_BYTES]
    assert site.answers.used == len(BODY)
    for _ in range(9):
        await client.reads()
    assert await task
    assert client.received == BODY
    assert site.answers.used == 0


async def test_unread_answers_are_cut_when_there_is_no_room_for_another() -> None:
    site = Site()
    silent = [await site.begun(Client(0), BODY[: len(BODY) - n]) for n in range(4)]
    reading = Client(1)
    read = await site.begun(reading)
    site.now += STALLED_SECONDS
    await reading.reads()
    new = await site.begun(Client(0))
    # The largest of those that read nothing; the others have room.
    assert not await silent[0]
    assert site.answers.used <= 5 * len(BODY)
    assert [task.done() for task in (*silent[1:], read, new)] == [False] * 5
    for _ in range(20):
        await reading.reads()
    assert await read
    for task in (*silent, new):
        task.cancel()
    await asyncio.gather(*silent, new, return_exceptions=True)
    assert site.answers.used == 0


async def test_answers_are_cut_until_there_is_room_but_none_before_its_second_is_over() -> None:
    site = Site()
    tasks = [await site.begun(Client(0)) for _ in range(20)]
    assert site.answers.used == 20 * len(BODY)
    assert not any(task.done() for task in tasks)
    site.now += STALLED_SECONDS
    assert await (await site.begun(Client()))
    for _ in range(3):
        await asyncio.sleep(0)
    assert [task.result() for task in tasks if task.done()] == [False] * 16
    assert site.answers.used == 4 * len(BODY)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_worker_that_stops_is_not_mistaken_for_a_cut() -> None:
    site = Site()
    task = await site.begun(Client(0))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert site.answers.used == 0
