"""When a promoter takes, renews, loses and releases the Lease, in virtual time.

The Lease is an object in memory, so that a test decides when each request fails or never ends. The
contract on the fake API server checks what the requests do there.
"""

import asyncio
import copy
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from fraudops.cluster import lease as lease_module
from fraudops.cluster.lease import LeaseLock, LeaseTimes
from fraudops.errors import StoreDownError
from fraudops.promotion.ports import LockBusyError, StaleRecordError, UnknownWriteError
from tests.support.simulation.loop import SimulatedLoop

TIMES = LeaseTimes(duration=15, renew=5.0, pause=1.0)
# What a monotonic clock shows at the start is any number.
STARTED = 1000.0
DOWN, LOST = StoreDownError("no answer"), UnknownWriteError("no answer to a write")
HANGS, STALE = "hangs", StaleRecordError("changed")
Answer = Exception | str | None


class Site:
    """A clock that jumps from timer to timer, and the Lease of a release.

    `answers` decides by method and second what a request gets; None is the usual answer.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.loop = SimulatedLoop(self._jump, lambda: self.now)
        self.lease: dict[str, Any] = {"metadata": {"resourceVersion": "1"}}
        self.answers: Callable[[str, float], Answer] = lambda method, now: None
        self.delay = 0.0
        self.requests: list[tuple[float, str]] = []
        self.said: list[str] = []

    def _jump(self) -> None:
        scheduled: Any = self.loop._scheduled  # type: ignore[attr-defined]
        timers = [timer.when() for timer in scheduled if not timer.cancelled()]
        self.now = max(self.now, min(timers, default=float("inf")))
        assert self.now < 10_000, "it never ends"

    def path(self, *names: str) -> str:
        return "/".join(names)

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        self.requests.append((self.now, method))
        answer = self.answers(method, self.now)
        if answer == HANGS:
            await asyncio.Event().wait()
        await asyncio.sleep(self.delay)
        if isinstance(answer, Exception):
            raise answer
        if method == "PATCH":
            if body["metadata"] != self.lease["metadata"]:
                raise STALE
            self.write(**body["spec"])
        return copy.deepcopy(self.lease)

    def write(self, **spec: Any) -> None:
        version = int(self.lease["metadata"]["resourceVersion"]) + 1
        self.lease["metadata"] = {"resourceVersion": str(version)}
        self.lease["spec"] = (self.lease.get("spec") or {}) | spec

    def holder(self) -> str:
        return str(self.lease["spec"]["holderIdentity"])

    def lock(self, wait_seconds: float = 300.0) -> LeaseLock:
        cluster: Any = self
        return LeaseLock(cluster, "shop", "one", self.said.append, wait_seconds, TIMES)

    def run(self, act: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(act)

    def seconds(self, method: str) -> list[float]:
        return [at for at, asked in self.requests if asked == method]


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = Site()
    monkeypatch.setattr(lease_module, "time", SimpleNamespace(monotonic=lambda: made.now + STARTED))
    yield made
    made.loop.close()


async def hold(lock: LeaseLock, seconds: float = 0.0) -> None:
    async with lock.hold("job"):
        await asyncio.sleep(seconds)


async def seconds_until_taken(site: Site, lock: LeaseLock) -> float:
    async with lock.hold("job"):
        return site.now


# A wait for the Lease.


@pytest.mark.parametrize(("named", "taken_at"), [(20, 21.0), (None, 16.0)])
def test_a_silent_holder_is_replaced_after_the_duration_that_it_names(
    site: Site, named: int | None, taken_at: float
) -> None:
    site.write(holderIdentity="two", renewTime="then", leaseDurationSeconds=named)
    # It looks once a second, and at the last second of the duration the holder may still renew.
    assert site.run(seconds_until_taken(site, site.lock())) == taken_at


@pytest.mark.parametrize(("seen_at", "field"), [(10.0, "renewTime"), (10.0, "holderIdentity")])
def test_every_change_of_the_lease_is_a_sign_of_life(
    site: Site, seen_at: float, field: str
) -> None:
    site.write(holderIdentity="two", renewTime="then", leaseDurationSeconds=20)

    def change(method: str, now: float) -> None:
        if now == seen_at and method == "GET":
            site.write(**{field: "another"})

    site.answers = change
    assert site.run(seconds_until_taken(site, site.lock())) == seen_at + 21


def test_a_lease_that_stays_busy_is_reported_after_the_wait(site: Site) -> None:
    site.write(holderIdentity="two", renewTime="then", leaseDurationSeconds=3600)
    with pytest.raises(LockBusyError) as busy:
        site.run(hold(site.lock(wait_seconds=10.0)))
    assert (busy.value.holder, site.now) == ("two", 11.0)
    assert site.said == ["waiting for the lock: two has it"]
    assert site.seconds("PATCH") == []


def test_a_promoter_that_always_comes_late_reports_another_one(site: Site) -> None:
    site.answers = lambda method, now: STALE if method == "PATCH" else None
    with pytest.raises(LockBusyError) as busy:
        site.run(hold(site.lock(wait_seconds=10.0)))
    assert busy.value.holder == "another promoter"


def test_a_promoter_takes_its_own_lease_and_a_free_one_without_a_wait(site: Site) -> None:
    for holder in ("one", ""):
        site.write(holderIdentity=holder, renewTime="then", leaseDurationSeconds=3600)
        began = site.now
        assert site.run(seconds_until_taken(site, site.lock())) == began


@pytest.mark.parametrize("error", [DOWN, LOST])
@pytest.mark.parametrize(("wait_seconds", "raised_at"), [(300.0, 16.0), (5.0, 6.0)])
def test_an_api_that_stays_silent_ends_the_wait_after_the_duration(
    site: Site, error: Exception, wait_seconds: float, raised_at: float
) -> None:
    site.answers = lambda method, now: error
    with pytest.raises(type(error)):
        site.run(hold(site.lock(wait_seconds)))
    assert site.now == raised_at


def test_an_answer_in_between_begins_the_patience_with_the_api_again(site: Site) -> None:
    site.write(holderIdentity="two", renewTime="then", leaseDurationSeconds=25)
    site.answers = lambda method, now: None if now in (0.0, 10.0, 20.0, 30.0) else DOWN
    assert site.run(seconds_until_taken(site, site.lock())) == 30.0


# Renewals.


def test_a_holder_renews_in_its_rhythm(site: Site) -> None:
    site.run(hold(site.lock(), 17.0))
    assert site.seconds("PATCH") == [0.0, 5.0, 10.0, 15.0, 17.0]
    assert site.said == ["lock acquired"]
    assert site.holder() == ""


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.parametrize("error", [DOWN, LOST, STALE])
def test_a_renewal_that_fails_is_repeated_soon(site: Site, method: str, error: Exception) -> None:
    site.answers = lambda asked, now: error if asked == method and 4 < now < 7 else None
    site.run(hold(site.lock(), 13.0))
    assert site.seconds("GET") == [0.0, 5.0, 6.0, 7.0, 12.0, 13.0]


def test_a_renewal_that_never_ends_is_given_up_and_repeated(site: Site) -> None:
    site.answers = lambda method, now: HANGS if now == 5.0 else None
    site.run(hold(site.lock(), 12.0))
    # It may take as long as the time between two renewals.
    assert site.seconds("GET") == [0.0, 5.0, 11.0, 12.0]


def test_a_holder_that_cannot_renew_gives_up_before_another_may_take_the_lease(
    site: Site,
) -> None:
    lock = site.lock()
    held = dict[float, bool]()

    async def watch() -> None:
        assert not await lock.held()
        async with lock.hold("job"):
            site.answers = lambda method, now: DOWN
            for seconds in range(1, 31):
                await asyncio.sleep(0.5)
                held[seconds / 2] = await lock.held()

    site.delay = 0.25
    site.run(watch())
    # The PATCH of the Lease was sent at 0.25, and arrived at 0.5.
    began = 0.5
    assert [seconds for seconds, has in held.items() if not has] == [
        seconds for seconds in held if began + seconds >= 0.25 + TIMES.duration
    ]


def test_the_last_moment_of_the_duration_is_too_late(site: Site) -> None:
    lock = site.lock()

    async def watch() -> tuple[bool, bool]:
        async with lock.hold("job"):
            site.answers = lambda method, now: DOWN
            await asyncio.sleep(14.5)
            before = await lock.held()
            await asyncio.sleep(0.5)
            return before, await lock.held()

    assert site.run(watch()) == (True, False)


def test_a_holder_that_lost_the_lease_stops_at_the_next_renewal(site: Site) -> None:
    lock = site.lock()

    async def lose() -> None:
        async with lock.hold("job"):
            site.write(holderIdentity="two", renewTime="now")
            await asyncio.sleep(4.0)
            assert await lock.held()
            await asyncio.sleep(2.0)
            assert not await lock.held()
            await asyncio.sleep(20.0)

    site.run(lose())
    # The last one is the look of the release.
    assert site.seconds("GET") == [0.0, 5.0, 26.0]
    assert site.seconds("PATCH") == [0.0]
    assert site.holder() == "two"


def test_a_time_without_a_fraction_is_written_with_six_digits_too(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = datetime(2026, 11, 29, 10, 0, 0, tzinfo=UTC)
    monkeypatch.setattr(lease_module, "datetime", SimpleNamespace(now=lambda zone: whole))
    site.run(hold(site.lock()))
    assert site.lease["spec"]["renewTime"] == "2026-11-29T10:00:00.000000Z"


# The release.


def test_the_lock_is_not_held_while_it_is_released(site: Site) -> None:
    lock = site.lock()

    async def release() -> None:
        holding = asyncio.ensure_future(hold(lock, 1.0))
        site.answers = lambda method, now: HANGS if now >= 1 else None
        await asyncio.sleep(0.5)
        assert await lock.held()
        await asyncio.sleep(1.0)
        assert not await lock.held()
        assert not holding.done()
        await holding

    site.run(release())
    # After its duration the Lease is as good as released.
    assert site.now == 1.0 + TIMES.duration


@pytest.mark.parametrize("error", [DOWN, LOST, STALE])
def test_a_release_that_fails_is_repeated(site: Site, error: Exception) -> None:
    site.answers = lambda method, now: error if method == "PATCH" and 1 <= now < 3 else None
    site.run(hold(site.lock(), 1.0))
    assert site.seconds("PATCH") == [0.0, 1.0, 2.0, 3.0]
    assert site.holder() == ""


def test_a_release_without_an_answer_ends_by_itself(site: Site) -> None:
    site.answers = lambda method, now: DOWN if now >= 1 else None
    site.run(hold(site.lock(), 1.0))
    assert site.holder() == "one"
    # A pause stands before each further try.
    assert len(set(site.seconds("GET"))) == len(site.seconds("GET"))


def test_the_block_ends_with_its_own_error(site: Site) -> None:
    async def fail() -> None:
        async with site.lock().hold("job"):
            site.answers = lambda method, now: DOWN
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        site.run(fail())
