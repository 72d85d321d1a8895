"""The shipper pauses for answers while the backlog is short, and only then."""

import asyncio
from datetime import UTC, datetime

import pytest

from fraudops.audit.shipper_status import ShipperStatus
from services.shipper.throttle import CALM_BYTES, PAUSE_SECONDS, Throttle


def shown(backlog_bytes: int, rows: int) -> ShipperStatus:
    return ShipperStatus(
        pid=1,
        at=datetime.now(UTC),
        phase="shipping",
        backlog_bytes=backlog_bytes,
        backlog_rows=rows // 2,
        shipped=rows - rows // 2,
    )


def looking(hurried_bytes: float, backlog: int, *rows: int) -> Throttle:
    throttle = Throttle(hurried_bytes)
    for count in rows:
        throttle.look(shown(backlog, count))
    return throttle


async def rest(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> float:
    """Return the seconds of one pause."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    await throttle.rest()
    return sum(slept)


@pytest.mark.parametrize(
    "throttle",
    [
        Throttle(1_000),
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
async def test_shipping_does_not_pause(throttle: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (throttle.limit(10 * CALM_BYTES), await rest(throttle, monkeypatch)) == (
        10 * CALM_BYTES,
        0,
    )


async def test_shipping_does_not_pause_during_a_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    throttle = looking(1_000, 0, 10, 20)
    throttle.hurry()
    throttle.look(shown(0, 30))
    assert (throttle.limit(10 * CALM_BYTES), await rest(throttle, monkeypatch)) == (
        10 * CALM_BYTES,
        0,
    )


@pytest.mark.parametrize(("backlog", "calm"), [(0, 1), (500, 0.5), (900, 0.1)])
async def test_groups_grow_and_pauses_shrink_with_the_backlog(
    backlog: int, calm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttle = looking(1_000, backlog, 10, 20)
    assert throttle.limit(1 << 30) == pytest.approx(CALM_BYTES / calm)
    assert throttle.limit(CALM_BYTES // 2) == CALM_BYTES // 2
    assert await rest(throttle, monkeypatch) == pytest.approx(PAUSE_SECONDS * calm)
