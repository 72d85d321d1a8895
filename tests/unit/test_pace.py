"""The shipper gives way to answers while little waits, and no longer."""

import time
from datetime import UTC, datetime

import pytest

from fraudops.audit.shipping import ShipperState
from services.shipper.pace import PAUSE_SECONDS, STEP_ROWS, Pace

STEPS = 200


def shown(backlog_bytes: int, rows: int) -> ShipperState:
    return ShipperState(pid=1, at=datetime.now(UTC), doing="shipping", backlog_bytes=backlog_bytes, backlog_rows=rows // 2, shipped=rows - rows // 2)


def looking(hurried_bytes: float, backlog: int, *rows: int) -> Pace:
    pace = Pace(hurried_bytes)
    for seen in rows:
        pace.look(shown(backlog, seen))
    return pace


async def taken(pace: Pace) -> float:
    """Seconds for so many steps, whose items must all come, in order."""
    began = time.monotonic()
    items = range(STEPS * STEP_ROWS)
    assert [row async for some in pace.steps(items) for row in some] == list(items)
    return time.monotonic() - began


@pytest.mark.parametrize(
    "pace",
    [Pace(1_000), looking(1_000, 1_000, 10, 20), looking(1_000, 5_000, 10, 20), looking(1_000, 0, 10, 20, 20), looking(0, 0, 10, 20)],
    ids=["nothing is known yet", "as much waits", "more waits", "no answers come", "answers wait for PostgreSQL"],
)
async def test_it_hurries(pace: Pace) -> None:
    assert await taken(pace) < STEPS * PAUSE_SECONDS / 2


async def test_it_hurries_once_it_was_told_to_stop() -> None:
    pace = looking(1_000, 0, 10, 20)
    pace.hurry()
    pace.look(shown(0, 30))
    assert await taken(pace) < STEPS * PAUSE_SECONDS / 2


async def test_it_pauses_after_each_step_the_longer_the_less_waits() -> None:
    assert await taken(looking(1_000, 0, 10, 20)) >= STEPS * PAUSE_SECONDS
    assert await taken(looking(1_000, 500, 10, 20)) >= STEPS * PAUSE_SECONDS / 2
