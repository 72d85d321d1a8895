"""In which groups the shipper takes the spool: little ones while answers come, of those who have
something, and all there is when it stops.
"""

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
from fraudops.settings import AuditSettings
from fraudops.spool import SpoolWriter
from fraudops.spool.reader import SpoolReader
from services.shipper.shipping import Shipper
from services.shipper.sink import ShipOutcome, Sink
from services.shipper.throttle import CALM_BYTES, PAUSE_SECONDS, Throttle
from tests.support.audit_records import prediction
from tests.support.shippers import expect, ids

ROWS = 4_000


class Watched(Sink):
    """Notes the bytes of each group, and the seconds that passed before the next."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.groups: list[int] = []
        self.between: list[float] = []
        self._ended: float | None = None

    async def ship(self, payloads: list[bytes]) -> ShipOutcome:
        self.groups.append(sum(map(len, payloads)))
        if self._ended is not None:
            self.between.append(time.monotonic() - self._ended)
        try:
            return await super().ship(payloads)
        finally:
            self._ended = time.monotonic()


@dataclass
class Shipping:
    shipper: Shipper
    sink: Watched
    answered: list[str]


@asynccontextmanager
async def shipping(database: str, folder: Path, throttle: Throttle) -> AsyncIterator[Shipping]:
    """Three writers live; only one of them has records."""
    idle, busy, late = (
        SpoolWriter(folder, name, AuditSettings()) for name in ("w-1", "w-2", "w-3")
    )
    records = [prediction() for _ in range(ROWS)]
    busy.append_many([encode(record) for record in records])
    sink, spool, current = (
        Watched(database),
        SpoolReader(folder),
        ShipperStatus(pid=1, at=datetime.now(UTC), phase="starting"),
    )
    try:
        yield Shipping(
            Shipper(spool, sink, folder, current, asyncio.Event(), throttle),
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
async def test_all_that_waits_is_shipped_before_a_stop_though_its_writer_lives(
    database: str, tmp_path: Path, is_calm: bool
) -> None:
    stopping = asyncio.Event()
    stopping.set()
    async with shipping(database, tmp_path, calm() if is_calm else Throttle()) as made:
        await made.shipper.run(stopping)
        assert ids(database) == sorted(made.answered)
        assert (
            max(made.sink.groups) <= CALM_BYTES
            if is_calm
            else made.sink.groups[1] > made.sink.groups[0] > CALM_BYTES
        )


async def test_while_answers_come_one_little_group_follows_the_other_with_a_rest_between(
    database: str, tmp_path: Path
) -> None:
    stopping = asyncio.Event()
    async with shipping(database, tmp_path, calm()) as made:
        running = asyncio.create_task(made.shipper.run(stopping))
        await asyncio.to_thread(expect, database, made.answered)
        stopping.set()
        await running
        assert (
            sum(made.sink.groups) / CALM_BYTES
            <= len(made.sink.groups)
            < 2 * sum(made.sink.groups) / CALM_BYTES
        )
        assert min(made.sink.between) >= 0.99 * PAUSE_SECONDS
