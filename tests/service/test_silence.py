"""A connection to PostgreSQL that falls silent: the shipper gives it up and connects again."""

import asyncio
import contextlib
import re
from collections.abc import Iterator

import pytest

from fraudops import database_url
from fraudops.audit.records import encode
from fraudops.errors import StoreDownError
from services.shipper import row_writer
from services.shipper.inserting import ShipOutcome
from services.shipper.sink import Sink
from tests.support.audit_records import prediction
from tests.support.fault_proxy import COPYING, GREETING, INSERTING, WITHIN, FaultProxy, Trap

# More bytes than the socket buffers hold, so the COPY blocks before it has sent all of them.
PAYLOADS = [encode(prediction(features={"V1": 0.5, "text": "x" * 100_000})) for _ in range(200)]
# A new connection copies only after an INSERT whose rows were all new.
FIRST = [encode(prediction())]


@pytest.mark.parametrize(
    "words", [GREETING, COPYING, INSERTING], ids=["greeting", "copy", "insert"]
)
async def test_a_silent_connection_is_given_up_and_its_batch_is_shipped_by_another(
    database: str, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    monkeypatch.setattr(row_writer, "TRANSACTION_SECONDS", 2.0)
    with behind_a_network(database) as (sink, proxy):
        if words == COPYING:
            await sink.ship(FIRST)
        trap = proxy.set(Trap(words, "stall", more=WITHIN if words == COPYING else 0))
        with pytest.raises(StoreDownError):
            await ship_in_time(sink)
        assert trap.sprung.is_set()
        assert (await until_shipped(sink)).new == len(PAYLOADS)
        await sink.close()


async def test_a_copy_that_waits_for_room_in_the_socket_notices_the_end_of_its_connection(
    database: str,
) -> None:
    with behind_a_network(database) as (sink, proxy):
        await sink.ship(FIRST)
        trap = proxy.set(Trap(COPYING, "stall", more=WITHIN))
        shipping = asyncio.create_task(ship_in_time(sink))
        assert await asyncio.to_thread(trap.sprung.wait, 10)
        await asyncio.sleep(0.5)
        proxy.reset()
        with pytest.raises(StoreDownError):
            await shipping


async def test_a_network_that_lets_no_packet_through_is_reported_as_a_timeout(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_url, "CONNECT_SECONDS", 1)
    with behind_a_network(database) as (sink, proxy):
        proxy.stall()
        with pytest.raises(StoreDownError, match=r"does not answer \(TimeoutError\)"):
            await ship_in_time(sink)


@contextlib.contextmanager
def behind_a_network(database: str) -> Iterator[tuple[Sink, FaultProxy]]:
    """Yield a sink and the proxy between it and PostgreSQL, which can stall the network."""
    match = re.search(r":(\d+)/", database)
    assert match
    with FaultProxy(int(match[1])).running() as proxy:
        yield Sink(database.replace(match[0], f":{proxy.port}/")), proxy


async def until_shipped(sink: Sink) -> ShipOutcome:
    # The silent connection holds locks on its uncommitted rows until PostgreSQL ends it.
    for _ in range(100):
        with contextlib.suppress(StoreDownError):
            return await ship_in_time(sink)
        await asyncio.sleep(0.1)
    raise AssertionError("PostgreSQL never released the locks")


async def ship_in_time(sink: Sink) -> ShipOutcome:
    # In its own task: the sink would take an asyncio timeout around it for one of the network.
    shipping = asyncio.create_task(sink.ship(PAYLOADS))
    done, _ = await asyncio.wait({shipping}, timeout=15)
    assert done, "the shipper still waits after 15 s"
    return await shipping
