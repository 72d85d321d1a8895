"""The lock of work that runs in no transaction: its connection may fall silent."""

import asyncio

import pytest

from fraudops.audit import locking
from fraudops.audit.connection import open_connection
from fraudops.audit.database import translated
from fraudops.audit.locking import advisory_lock
from fraudops.database_url import read_database_url
from fraudops.errors import StoreDownError
from tests.support.fault_proxy import FaultProxy

KEY = 1


async def test_a_lock_whose_connection_falls_silent_ends_its_block(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(locking, "ANSWER_SECONDS", 0.5)
    parts = read_database_url(database)
    with FaultProxy(parts.hosts[0][1]).running() as proxy:
        url = database.replace(parts.host_list, f"127.0.0.1:{proxy.port}")
        async with asyncio.timeout(30):
            with pytest.raises(StoreDownError, match="does not answer"), translated(url):
                await hold(url, proxy)


async def hold(url: str, proxy: FaultProxy) -> None:
    async with advisory_lock(url, KEY, "test") as held:
        assert held
        proxy.stall()
        await asyncio.Event().wait()


async def test_the_server_notices_within_minutes_that_the_holder_has_disappeared(
    database: str,
) -> None:
    async with open_connection(database) as connection:
        async with connection.transaction():
            await connection.execute(locking._SETTINGS)
            rows = await connection.fetch(
                "SELECT name, setting FROM pg_settings WHERE name ~ '^tcp_|_timeout$'"
            )
        settings = {row["name"]: row["setting"] for row in rows}
        assert settings["tcp_keepalives_idle"] == "60"
        assert settings["tcp_keepalives_interval"] == "10"
        assert settings["tcp_keepalives_count"] == "3"
        assert settings["tcp_user_timeout"] == "90000"
        assert settings["idle_in_transaction_session_timeout"] == "0"
        assert await connection.fetchval("SHOW tcp_keepalives_count") != "3"


async def test_checks_of_several_tasks_take_turns(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "CHECK_SECONDS", 0)
    async with advisory_lock(database, KEY, "test") as held:
        assert held
        for _ in range(50):
            await held.check()
    # The transaction has ended, although checks ran until its end.
    async with advisory_lock(database, KEY, "test") as again:
        assert again
