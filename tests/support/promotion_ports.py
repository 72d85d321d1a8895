"""The contract of every record store and every promotion lock.

The same tests run on the files of one machine and on the objects of a cluster.
"""

import asyncio
import contextlib
from typing import Any

import pytest

from fraudops.promotion.ports import Lock, LockBusyError, Records, StaleRecordError
from fraudops.promotion.serving_record import EMPTY, Reservation, ServingRecord, reserve


def reserved(epoch: int, by: str = "job") -> ServingRecord:
    """Return a record that differs from that of every other epoch."""
    reservation = Reservation(
        epoch=epoch,
        version="7",
        digest="d",
        schema_fingerprint="s",
        strategy="broadcast",
        by=by,
        act="promote",
        at="2026-11-02T12:00:00Z",
    )
    return reserve(EMPTY, reservation)


class RecordsContract:
    """Tests of a record store. The fixture `records` is a store without a record."""

    async def test_the_record_is_empty_until_the_first_write_creates_it(
        self, records: Records
    ) -> None:
        record, token = await records.read()
        assert record == EMPTY
        await records.compare_and_set(reserved(1), token)
        assert (await records.read())[0] == reserved(1)

    async def test_the_token_of_a_write_is_valid_for_the_next_write(self, records: Records) -> None:
        token = (await records.read())[1]
        for epoch in range(1, 4):
            token = await records.compare_and_set(reserved(epoch), token)
        record, last = await records.read()
        assert (record, last) == (reserved(3), token)

    async def test_an_old_token_writes_nothing(self, records: Records) -> None:
        first = await records.compare_and_set(reserved(1), (await records.read())[1])
        await records.compare_and_set(reserved(2), first)
        with pytest.raises(StaleRecordError):
            await records.compare_and_set(reserved(3), first)
        assert (await records.read())[0] == reserved(2)

    async def test_exactly_one_of_several_writers_wins_for_the_first_record_too(
        self, records: Records
    ) -> None:
        for round_ in range(2):
            token = (await records.read())[1]
            writes = [
                records.compare_and_set(reserved(10 * round_ + epoch, by=f"job {epoch}"), token)
                for epoch in range(1, 5)
            ]
            answers: list[Any] = await asyncio.gather(*writes, return_exceptions=True)
            won = [
                epoch
                for epoch, answer in enumerate(answers, 1)
                if not isinstance(answer, StaleRecordError)
            ]
            assert len(won) == 1, answers
            assert (await records.read())[0] == reserved(10 * round_ + won[0], by=f"job {won[0]}")


class LockContract:
    """Tests of a lock. The fixture `locks` is two holders' views of one free lock.

    The first holder is "one" and the second is "two". Each gives up after two seconds.
    """

    async def test_the_second_holder_waits_and_is_refused(self, locks: tuple[Lock, Lock]) -> None:
        first, second = locks
        async with first.hold("one"):
            assert await first.held()
            with pytest.raises(LockBusyError, match="another promotion has the lock") as busy:
                async with second.hold("two"):
                    pytest.fail("both have the lock")
            assert busy.value.holder.startswith("one")
            assert f"({busy.value.holder})" in str(busy.value)
        async with second.hold("two"):
            assert await second.held()

    async def test_the_lock_is_free_after_its_holder_failed(self, locks: tuple[Lock, Lock]) -> None:
        first, second = locks
        with contextlib.suppress(ZeroDivisionError):
            async with first.hold("one"):
                _ = 1 / 0
        async with second.hold("two"):
            assert await second.held()

    async def test_a_lock_is_held_only_inside_of_its_block(self, locks: tuple[Lock, Lock]) -> None:
        first, second = locks
        assert not await first.held()
        async with first.hold("one"):
            assert (await first.held(), await second.held()) == (True, False)
        assert not await first.held()

    async def test_a_waiting_holder_gets_the_lock_when_it_is_released(
        self, locks: tuple[Lock, Lock]
    ) -> None:
        first, second = locks
        order: list[str] = []

        async def wait() -> None:
            async with second.hold("two"):
                order.append("second holds")

        async with first.hold("one"):
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0.3)
            order.append("first releases")
        await waiting
        assert order == ["first releases", "second holds"]
