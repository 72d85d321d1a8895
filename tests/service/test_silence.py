"""A connection to PostgreSQL that goes silent for ever, neither side being told: the shipper gives
it up and ships by another one.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterator

import pytest

from fraudops.audit import connection as connection_module
from fraudops.audit.records import encode
from fraudops.errors import StoreDownError
from services.shipper import sink as sink_module
from services.shipper.sink import ShipOutcome, Sink
from tests.support.audit_records import prediction
from tests.support.fault_proxy import COPYING, GREETING, INSERTING, WITHIN, FaultProxy, Trap

# More than the sockets between them hold, so that the COPY waits in its middle for room.
PAYLOADS = [encode(prediction(features={"V1": 0.5, "text": "x" * 100_000})) for _ in range(200)]


@pytest.mark.parametrize(
    "words", [GREETING, COPYING, INSERTING], ids=["greeting", "copy", "insert"]
)
async def test_a_silent_connection_is_given_up_and_what_it_held_goes_by_another(
    database: str, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    monkeypatch.setattr(sink_module, "TRANSACTION_SECONDS", 2.0)
    with behind_a_network(database) as (sink, proxy):
        trap = proxy.set(Trap(words, "stall", more=WITHIN if words == COPYING else 0))
        with pytest.raises(StoreDownError):
            await in_time(sink)
        assert trap.sprung.is_set()
        assert (await until_shipped(sink)).new == len(PAYLOADS)
        await sink.close()


async def test_a_copy_that_waits_for_room_hears_of_the_end_of_its_connection(database: str) -> None:
    with behind_a_network(database) as (sink, proxy):
        trap = proxy.set(Trap(COPYING, "stall", more=WITHIN))
        shipping = asyncio.create_task(in_time(sink))
        assert await asyncio.to_thread(trap.sprung.wait, 10)
        await asyncio.sleep(0.5)
        proxy.reset()
        with pytest.raises(StoreDownError):
            await shipping


async def test_a_network_that_lets_nobody_through_is_told_as_such(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "CONNECT_SECONDS", 0.3)
    with behind_a_network(database) as (sink, proxy):
        proxy.stall()
        with pytest.raises(StoreDownError, match=r"does not answer \(TimeoutError\)"):
            await in_time(sink)


@contextlib.contextmanager
def behind_a_network(database: str) -> Iterator[tuple[Sink, FaultProxy]]:
    """A sink behind a network that can be stalled."""
    match = re.search(r":(\d+)/", database)
    assert match
    with FaultProxy(int(match[1])).running() as proxy:
        yield Sink(database.replace(match[0], f":{proxy.port}/")), proxy


async def until_shipped(sink: Sink) -> ShipOutcome:
    """What the silent connection inserted and did not commit is let go by PostgreSQL a little later."""
    for _ in range(100):
        with contextlib.suppress(StoreDownError):
            return await in_time(sink)
        await asyncio.sleep(0.1)
    raise AssertionError("PostgreSQL never let go of them")


async def in_time(sink: Sink) -> ShipOutcome:
    """By a task of its own: a timeout around it would be taken for the network's."""
    shipping = asyncio.create_task(sink.ship(PAYLOADS))
    done, _ = await asyncio.wait({shipping}, timeout=15)
    assert done, "the shipper waits for ever"
    return await shipping
