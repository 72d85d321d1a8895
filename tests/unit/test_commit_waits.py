"""Requests that wait for PostgreSQL.

Only the position of the shipper lets one continue.
"""

import asyncio
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fraudops.errors import StoreDownError
from fraudops.spool import SpoolReader, SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import list_segments
from fraudops.spool.wakeup import WakeupPipe, open_wakeup_pipe
from services.inference.audit.commit_waits import Confirmations
from tests.support.waiting import eventually


@dataclass
class Spool:
    folder: Path
    writer: SpoolWriter
    reader: SpoolReader

    def ship(self, refused: int = 0) -> int:
        group = self.reader.read(1 << 20)
        for segment, piece in group:
            segment.commit(piece, refused)
        return sum(len(piece.payloads) for _, piece in group)

    def waits(self, seconds: float = 20.0) -> Confirmations:
        return Confirmations(self.folder, WakeupPipe(self.folder), seconds)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(
        tmp_path,
        SpoolWriter(tmp_path, "w", SpoolOptions(max_bytes=1 << 20, segment_bytes=1 << 16)),
        SpoolReader(tmp_path),
    )
    yield made
    made.writer.close()
    made.reader.close()


async def still_waits(task: "asyncio.Task[None]") -> None:
    """Check that the task waits, after several polls of the position."""
    done, _ = await asyncio.wait([task], timeout=0.05)
    assert not done


async def test_each_waits_for_its_own_record(spool: Spool) -> None:
    waits = spool.waits()
    first = asyncio.create_task(waits.wait(spool.writer.append_placed([b"1", b"2"])))
    await still_waits(first)
    assert spool.ship() == 2
    second = asyncio.create_task(waits.wait(spool.writer.append_placed([b"3"])))
    await first
    await still_waits(second)
    assert spool.ship() == 1
    await second
    await waits.close()


async def test_a_segment_stays_while_a_request_waits_for_it(spool: Spool) -> None:
    """Otherwise its position is deleted with it, and a pod that drains hands it over."""
    waits = spool.waits()
    full = asyncio.create_task(waits.wait(spool.writer.append_placed([bytes(1 << 16)])))
    following = asyncio.create_task(waits.wait(spool.writer.append_placed([b"next"])))
    await still_waits(full)
    spool.writer.close()
    assert spool.ship() == 1
    spool.reader.remove_finished()
    assert len(list_segments(spool.folder)) == 2
    await full
    await still_waits(following)
    assert spool.ship() == 1
    await following
    await waits.close()
    spool.reader.remove_finished()
    assert list_segments(spool.folder) == []


async def test_a_wait_in_vain_fails_and_requests_are_refused_until_confirmed(
    spool: Spool,
) -> None:
    waits = spool.waits(0.05)
    waits.admit()
    with pytest.raises(StoreDownError, match="did not confirm in time"):
        await waits.wait(spool.writer.append_placed([b"1"]))
    with pytest.raises(StoreDownError, match="did not confirm in time"):
        waits.admit()
    assert spool.ship() == 1
    await asyncio.to_thread(eventually, waits.admit)
    waits.admit()
    await waits.close()


async def test_a_dead_letter_is_not_confirmed_and_the_record_after_it_is(spool: Spool) -> None:
    waits = spool.waits()
    bad = asyncio.create_task(waits.wait(spool.writer.append_placed([b"1"])))
    await still_waits(bad)
    spool.ship(refused=1)
    with pytest.raises(StoreDownError, match="refused"):
        await bad
    good = asyncio.create_task(waits.wait(spool.writer.append_placed([b"2"])))
    await still_waits(good)
    spool.ship()
    await good
    await waits.close()


def test_a_wake_up_reaches_the_listener_and_never_blocks(tmp_path: Path) -> None:
    wakeup = WakeupPipe(tmp_path)
    wakeup.notify()
    listener = open_wakeup_pipe(tmp_path)
    for _ in range(100_000):
        wakeup.notify()
    assert os.read(listener, 1 << 20)
    os.close(listener)
    wakeup.notify()
    wakeup.notify()
    listener = open_wakeup_pipe(tmp_path)
    wakeup.notify()
    assert os.read(listener, 10) == b"\0"
    os.close(listener)
    wakeup.close()
