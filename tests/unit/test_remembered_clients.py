"""A connection remembers its client, but no longer than the authenticator does."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.inference.http import protocol as protocol_module
from services.inference.http.client_auth import authenticator as authenticator_module
from tests.support.client_site import ISSUED, KEY, OTHER, ClientSite, entry
from tests.support.http_wire import WireApplication, connect, request, settle


class Caller:
    """A client with one connection, which sends one request after another."""

    def __init__(self, site: ClientSite, **settings: object) -> None:
        self.clients, self._application = site.clients(**settings), WireApplication()
        self._protocol, _ = connect(self._application, clients=self.clients)

    async def is_admitted(self, key: str = KEY) -> bool:
        """Send a request, and return whether it took the fast path."""
        before = len(self._application.taken)
        self._protocol.data_received(request(Authorization=f"Bearer {key}"))
        await settle()
        return len(self._application.taken) > before

    async def verify(self, key: str = KEY) -> None:
        """Do what the dispatcher does with a request that did not take the fast path."""
        await self.clients.verify({b"x-api-key": key.encode()}, "predict")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClientSite:
    made = ClientSite(tmp_path)
    end = datetime.fromtimestamp(made.now + 60, UTC).isoformat()
    made.write(entry(KEY, expires=end), entry(OTHER, name="other"))
    monkeypatch.setattr(protocol_module, "time", lambda: made.now)
    return made


async def test_a_client_is_admitted_once_its_credential_is_known(site: ClientSite) -> None:
    caller = Caller(site)
    assert not await caller.is_admitted()
    await caller.verify()
    assert [await caller.is_admitted() for _ in range(3)] == [True] * 3
    assert not await caller.is_admitted(OTHER), "another client, on the same connection"
    await caller.verify(OTHER)
    assert [await caller.is_admitted(key) for key in (OTHER, KEY, OTHER)] == [True] * 3


@pytest.mark.parametrize("ending", ["removed", "expired", "without its scope", "pushed out"])
async def test_a_client_is_not_admitted_after_its_end(
    site: ClientSite, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator_module, "MAX_VERIFIED", 1)
    caller = Caller(site)
    await caller.verify()
    assert await caller.is_admitted()
    if ending == "expired":
        site.now += 61
    elif ending == "pushed out":
        await caller.verify(OTHER)
    else:
        site.write(entry(OTHER) if ending == "removed" else entry(KEY, scopes=["read"]))
        await caller.clients._look_at_keys()
    assert not await caller.is_admitted()


async def test_a_remembered_client_keeps_to_its_rate(site: ClientSite) -> None:
    caller = Caller(site, rate_per_second=1)
    await caller.verify()
    assert [await caller.is_admitted() for _ in range(10)] == [True] * 9 + [False]
    site.now += 1
    assert [await caller.is_admitted() for _ in range(2)] == [True, False]


async def test_of_two_verifications_at_once_one_is_remembered(site: ClientSite) -> None:
    """A connection may have the other one, which must end with a removed key."""
    clients = site.with_tokens()
    headers = {b"authorization": b"Bearer " + ISSUED.token(sub="desk")}
    both = await asyncio.gather(*(clients.verify(headers, "predict") for _ in range(2)))
    (kept,) = clients._verified.values()
    assert [found is kept or found.expires == 0 for found in both if found] == [True, True]
