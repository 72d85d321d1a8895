"""The shipper's batches: small while predictions are answered, everything when it stops."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fraudops.audit.records import encode
from fraudops.audit.shipper_status import ShipperStatus
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.spool.reader import SpoolReader
from services.shipper.inserting import ShipOutcome
from services.shipper.shipping import Shipper
from services.shipper.sink import Sink
from services.shipper.throttle import CALM_BYTES, PAUSE_SECONDS, Throttle
from tests.support.audit_records import prediction
from tests.support.shippers import expect, ids

ROWS = 4_000


class WatchedSink(Sink):
    """A sink that notes the bytes of each batch and the seconds between two batches."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.batches: list[int] = []
        self.between: list[float] = []
        self._ended: float | None = None

    async def ship(self, payloads: list[bytes]) -> ShipOutcome:
        self.batches.append(sum(map(len, payloads)))
        if self._ended is not None:
            self.between.append(time.monotonic() - self._ended)
        try:
            return await super().ship(payloads)
        finally:
            self._ended = time.monotonic()


@dataclass
class Shipping:
    shipper: Shipper
    sink: WatchedSink
    answered: list[str]


@asynccontextmanager
async def shipping(database: str, folder: Path, throttle: Throttle) -> AsyncIterator[Shipping]:
    """Yield a shipper over the spool of three living writers, of which one has records."""
    idle, busy, late = (SpoolWriter(folder, name, SpoolOptions()) for name in ("w-1", "w-2", "w-3"))
    records = [prediction() for _ in range(ROWS)]
    busy.append_many([encode(record) for record in records])
    sink, spool, current = (
        WatchedSink(database),
        SpoolReader(folder),
        ShipperStatus(pid=1, at=datetime.now(UTC), phase="starting"),
    )
    try:
        yield Shipping(
            Shipper(spool, sink, folder, current, asyncio.Event(), throttle, 1 << 20),
            sink,
            [record.id for record in records],
        )
    finally:
        await sink.close()
        spool.close()
        for writer in (idle, busy, late):
            writer.close()


def calm() -> Throttle:
    throttle = Throttle(1 << 40)
    for rows in (10, 20):
        throttle.look(ShipperStatus(pid=1, at=datetime.now(UTC), phase="shipping", shipped=rows))
    return throttle


@pytest.mark.parametrize("is_calm", [True, False])
async def test_the_whole_spool_is_shipped_before_a_stop_though_its_writer_lives(
    database: str, tmp_path: Path, is_calm: bool
) -> None:
    stopping = asyncio.Event()
    stopping.set()
    async with shipping(database, tmp_path, calm() if is_calm else Throttle()) as made:
        await made.shipper.run(stopping)
        assert ids(database) == sorted(made.answered)
        assert (
            max(made.sink.batches) <= CALM_BYTES
            if is_calm
            else made.sink.batches[1] > made.sink.batches[0] > CALM_BYTES
        )


async def test_while_predictions_are_answered_small_batches_follow_each_other_with_pauses(
    database: str, tmp_path: Path
) -> None:
    stopping = asyncio.Event()
    async with shipping(database, tmp_path, calm()) as made:
        running = asyncio.create_task(made.shipper.run(stopping))
        await asyncio.to_thread(expect, database, made.answered)
        stopping.set()
        await running
        assert (
            sum(made.sink.batches) / CALM_BYTES
            <= len(made.sink.batches)
            < 2 * sum(made.sink.batches) / CALM_BYTES
        )
        assert min(made.sink.between) >= 0.99 * PAUSE_SECONDS
