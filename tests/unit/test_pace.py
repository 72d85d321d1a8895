"""The shipper gives way to answers while little waits, and no longer."""

import asyncio
from datetime import UTC, datetime

import pytest

from fraudops.audit.shipper_status import ShipperState
from services.shipper.pace import CALM_BYTES, PAUSE_SECONDS, Pace


def shown(backlog_bytes: int, rows: int) -> ShipperState:
    return ShipperState(
        pid=1,
        at=datetime.now(UTC),
        doing="shipping",
        backlog_bytes=backlog_bytes,
        backlog_rows=rows // 2,
        shipped=rows - rows // 2,
    )


def looking(hurried_bytes: float, backlog: int, *rows: int) -> Pace:
    pace = Pace(hurried_bytes)
    for seen in rows:
        pace.look(shown(backlog, seen))
    return pace


async def rest(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds of one."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await pace.rest()
    return sum(slept)


@pytest.mark.parametrize(
    "pace",
    [
        Pace(1_000),
        looking(1_000, 1_000, 10, 20),
        looking(1_000, 5_000, 10, 20),
        looking(1_000, 0, 10, 20, 20),
        looking(0, 0, 10, 20),
    ],
    ids=[
        "nothing is known yet",
        "as much waits",
        "more waits",
        "no answers come",
        "answers wait for PostgreSQL",
    ],
)
async def test_it_hurries(pace: Pace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (pace.limit(10 * CALM_BYTES), await rest(pace, monkeypatch)) == (10 * CALM_BYTES, 0)


async def test_it_hurries_once_it_was_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    pace = looking(1_000, 0, 10, 20)
    pace.hurry()
    pace.look(shown(0, 30))
    assert (pace.limit(10 * CALM_BYTES), await rest(pace, monkeypatch)) == (10 * CALM_BYTES, 0)


@pytest.mark.parametrize(("backlog", "calm"), [(0, 1), (500, 0.5), (900, 0.1)])
async def test_groups_grow_and_rests_shrink_with_the_backlog(
    backlog: int, calm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = looking(1_000, backlog, 10, 20)
    assert pace.limit(1 << 30) == pytest.approx(CALM_BYTES / calm)
    assert pace.limit(CALM_BYTES // 2) == CALM_BYTES // 2
    assert await rest(pace, monkeypatch) == pytest.approx(PAUSE_SECONDS * calm)
