"""The shipper gives way to answers while little waits, and no longer."""

import time
from datetime import UTC, datetime

import pytest

from fraudops.audit.shipping import ShipperState
from services.shipper.pace import CALM_BYTES, PAUSE_SECONDS, Pace

GROUPS = 100


def shown(backlog_bytes: int, rows: int) -> ShipperState:
    return ShipperState(pid=1, at=datetime.now(UTC), doing="shipping", backlog_bytes=backlog_bytes, backlog_rows=rows // 2, shipped=rows - rows // 2)


def looking(hurried_bytes: float, backlog: int, *rows: int) -> Pace:
    pace = Pace(hurried_bytes)
    for seen in rows:
        pace.look(shown(backlog, seen))
    return pace


async def rested(pace: Pace) -> float:
    """Seconds after so many groups."""
    began = time.monotonic()
    for _ in range(GROUPS):
        await pace.rest()
    return time.monotonic() - began


async def hurries(pace: Pace) -> bool:
    return pace.limit(10 * CALM_BYTES) == 10 * CALM_BYTES and await rested(pace) < GROUPS * PAUSE_SECONDS / 2


@pytest.mark.parametrize(
    "pace",
    [Pace(1_000), looking(1_000, 1_000, 10, 20), looking(1_000, 5_000, 10, 20), looking(1_000, 0, 10, 20, 20), looking(0, 0, 10, 20)],
    ids=["nothing is known yet", "as much waits", "more waits", "no answers come", "answers wait for PostgreSQL"],
)
async def test_it_hurries(pace: Pace) -> None:
    assert await hurries(pace)


async def test_it_hurries_once_it_was_told_to_stop() -> None:
    pace = looking(1_000, 0, 10, 20)
    pace.hurry()
    pace.look(shown(0, 30))
    assert await hurries(pace)


async def test_it_ships_little_at_once_and_rests_the_longer_the_less_waits() -> None:
    nothing, half = looking(1_000, 0, 10, 20), looking(1_000, 500, 10, 20)
    for pace in (nothing, half):
        assert (pace.limit(10 * CALM_BYTES), pace.limit(CALM_BYTES // 2)) == (CALM_BYTES, CALM_BYTES // 2)
    assert await rested(nothing) >= GROUPS * PAUSE_SECONDS
    assert await rested(half) >= GROUPS * PAUSE_SECONDS / 2
