"""The lock in a Lease while the API fails, is silent, or loses an answer."""

import asyncio
import time
from typing import Any

import aiohttp
import pytest

from fraudops.cluster import api
from fraudops.cluster.api import Cluster
from fraudops.errors import StoreDownError
from fraudops.promotion.ports import UnknownWriteError
from tests.support.cluster_objects import create_lease
from tests.support.cluster_ports import LEASE, QUICK, holder_of, lock, soon
from tests.support.kube_api import Fault, KubeApi

ALWAYS = 1_000_000


@pytest.fixture(autouse=True)
async def lease(cluster: Cluster) -> str:
    return await create_lease(cluster, LEASE)


@pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
@pytest.mark.parametrize("then", ["cut", 429, 503])
async def test_a_lost_answer_does_not_end_the_wait_for_the_lock(
    kube_api: KubeApi, cluster: Cluster, then: Any, applied: bool
) -> None:
    kube_api.faults += [Fault("GET", "leases", 503), Fault("PATCH", "leases", then, applied)]
    one = lock(cluster, "one", wait_seconds=30)
    async with one.hold("job"):
        assert (await one.held(), await holder_of(cluster)) == (True, "one")


async def test_a_lost_answer_does_not_end_the_wait_for_another_holder(
    kube_api: KubeApi, cluster: Cluster
) -> None:
    said: list[str] = []
    two = lock(cluster, "two", wait_seconds=30)
    two.say = said.append
    following = two.hold("job")
    async with lock(cluster, "one", wait_seconds=2).hold("job"):
        taking = asyncio.create_task(following.__aenter__())

        start = time.monotonic()

        async def has_waited_longer_than_one_duration() -> bool:
            return bool(said) and time.monotonic() - start > QUICK.duration

        await soon(has_waited_longer_than_one_duration)
        kube_api.faults += [Fault("GET", "leases", 503), Fault("GET", "leases", "cut")]
    async with asyncio.timeout(20):
        await taking
    assert said == ["waiting for the lock: one has it", "lock acquired"]
    await following.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("method", "error"), [("GET", StoreDownError), ("PATCH", UnknownWriteError)]
)
async def test_an_api_that_stays_away_is_reported_as_such(
    kube_api: KubeApi, cluster: Cluster, method: str, error: type[Exception]
) -> None:
    kube_api.faults.append(Fault(method, "leases", 503, times=ALWAYS))
    with pytest.raises(error, match="the Kubernetes API answered 503"):
        async with lock(cluster, "one", wait_seconds=30).hold("job"):
            pytest.fail("there is no lock")
    # A pause stands before each further try.
    assert len(kube_api.requests) <= 4 * QUICK.duration / QUICK.pause


async def test_a_missing_lease_is_reported_without_a_wait(
    kube_api: KubeApi, cluster: Cluster, lease: str
) -> None:
    await cluster.call("DELETE", lease)
    kube_api.requests.clear()
    with pytest.raises(StoreDownError, match="the Lease shop-promotion, does not exist") as caught:
        async with lock(cluster, "one", wait_seconds=30).hold("job"):
            pytest.fail("there is no lock")
    assert "delete that Job" in str(caught.value)
    assert len(kube_api.requests) == 1


@pytest.mark.parametrize(("method", "then"), [("GET", 503), ("GET", "cut"), ("PATCH", 429)])
async def test_a_lock_that_is_not_renewed_is_not_held_although_no_other_has_taken_it(
    kube_api: KubeApi, cluster: Cluster, method: str, then: Any
) -> None:
    one = lock(cluster, "one", wait_seconds=2)

    async def held() -> bool:
        return await one.held()

    async def lapsed() -> bool:
        return not await one.held()

    async with one.hold("job"):
        fault = Fault(method, "leases", then, times=ALWAYS)
        kube_api.faults.append(fault)
        await soon(lapsed)
        fault.times = 0
        assert await holder_of(cluster) == "one"
        await soon(held)


async def test_an_answer_that_never_comes_does_not_cost_the_lock(
    kube_api: KubeApi, cluster: Cluster
) -> None:
    one = lock(cluster, "one", wait_seconds=2)
    async with one.hold("job"):
        count = len(kube_api.requests)
        kube_api.faults += [Fault("GET", "leases", "silence"), Fault("PATCH", "leases", "silence")]

        async def renewed_again() -> bool:
            assert await one.held()
            # The silent read, the read with a silent write, and two renewals.
            return len(kube_api.requests) >= count + 7

        await soon(renewed_again)


@pytest.mark.parametrize("applied", [False, True], ids=["not applied", "applied"])
async def test_the_lease_is_released_although_an_answer_is_lost(
    kube_api: KubeApi, cluster: Cluster, applied: bool
) -> None:
    async with lock(cluster, "one", wait_seconds=2).hold("job"):
        kube_api.faults += [
            Fault("GET", "leases", 503),
            Fault("PATCH", "leases", "cut", applied),
            Fault("PATCH", "leases", "cut", applied),
        ]
    assert await holder_of(cluster) == ""


@pytest.mark.parametrize("then", [403, 404, 503, "silence"])
async def test_a_lease_that_cannot_be_released_does_not_hide_how_the_block_ended(
    kube_api: KubeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, then: Any
) -> None:
    monkeypatch.setattr(api, "ORDINARY", aiohttp.ClientTimeout(total=60))
    one = lock(cluster, "one", wait_seconds=2)

    async def fail() -> None:
        async with one.hold("job"):
            kube_api.faults.append(Fault("GET", "leases", then, times=ALWAYS))
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert not await one.held()
