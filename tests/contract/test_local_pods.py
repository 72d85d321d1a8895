"""The admin calls of the one pod of a machine, and what stands between them and the pod."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from fraudops.errors import SettingsError
from fraudops.promotion import admin_client
from fraudops.promotion.admin_client import LocalPods, PodAdminClient
from fraudops.promotion.ports import PodRef, PodRefusedError, PodUnresponsiveError
from fraudops.promotion.serving_record import ServingTarget
from tests.support.processes import free_port

TARGET = ServingTarget(5, "8", "d" * 64)
POD = PodRef("local", ready=True)


@dataclass
class Service:
    """An admin port that answers with `status` and `body` after `seconds`."""

    status: int = 200
    body: Any = field(default_factory=lambda: {"epoch": 5, "workers": [{"epoch": 5}]})
    seconds: float = 0.0
    url: str = ""
    asked: list[tuple[str, str, Any, str | None]] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        token = request.headers.get("Authorization")
        self.asked.append((request.method, request.path, body, token))
        if self.seconds:
            await asyncio.wait([asyncio.ensure_future(self.closing.wait())], timeout=self.seconds)
        return web.json_response(self.body, status=self.status)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    served = Service()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", served.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield served
    served.closing.set()
    await runner.cleanup()


@pytest.fixture
def pods(service: Service) -> LocalPods:
    return LocalPods(service.url, "token")


async def test_the_processes_of_a_machine_are_one_pod(service: Service, pods: LocalPods) -> None:
    assert await pods.desired_replicas() == 1
    assert await pods.list() == [PodRef("local", ready=True)]
    assert service.asked == [("GET", "/ready", None, "Bearer token")]
    service.status = 503
    assert await pods.list() == [PodRef("local", ready=False)]
    assert await pods.epoch(POD) == 5


async def test_a_machine_without_a_service_has_no_pod() -> None:
    assert await LocalPods(f"http://127.0.0.1:{free_port()}", "token").list() == []


async def test_the_calls_of_a_promotion_reach_the_service(
    service: Service, pods: LocalPods
) -> None:
    await pods.prepare(POD, TARGET, 2.0)
    assert await pods.activate(POD, 5, 2.0) == 5
    await pods.drop(POD, TARGET)
    named = {"version": "8", "digest": "d" * 64, "epoch": 5}
    bodies = [body for _, _, body, _ in service.asked]
    assert bodies[0] == named | {"phase": "prepare", "deadline_seconds": 32.0}
    assert bodies[1:] == [{"phase": "commit", "epoch": 5}, named | {"phase": "drop"}]
    assert {(method, path) for method, path, _, _ in service.asked} == {("POST", "/reload")}


async def test_a_promotion_does_not_delete_the_service_of_a_machine(
    service: Service, pods: LocalPods
) -> None:
    with pytest.raises(PodRefusedError, match="fraudops status"):
        await pods.delete(POD)
    assert service.asked == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
async def test_these_statuses_are_temporary(service: Service, pods: LocalPods, status: int) -> None:
    service.status = status
    with pytest.raises(PodUnresponsiveError):
        await pods.prepare(POD, TARGET, 2.0)


@pytest.mark.parametrize("status", [407, 409, 428, 430, 499, 501, 505])
async def test_the_statuses_next_to_them_are_refusals(
    service: Service, pods: LocalPods, status: int
) -> None:
    service.status = status
    with pytest.raises(PodRefusedError):
        await pods.prepare(POD, TARGET, 2.0)


CALLS: dict[str, Callable[[LocalPods], Awaitable[Any]]] = {
    "epoch": lambda pods: pods.epoch(POD),
    "drop": lambda pods: pods.drop(POD, TARGET),
    "prepare": lambda pods: pods.prepare(POD, TARGET, 0.3),
    "activate": lambda pods: pods.activate(POD, 5, 0.3),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_silent_service_does_not_hold_a_call(
    service: Service, pods: LocalPods, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(admin_client, "ASK_SECONDS", 0.3)
    service.seconds = 60.0
    async with asyncio.timeout(10):
        with pytest.raises(PodUnresponsiveError, match="did not answer"):
            await CALLS[call](pods)


async def test_a_silent_service_is_not_listed(
    service: Service, pods: LocalPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_client, "ASK_SECONDS", 0.3)
    service.seconds = 60.0
    async with asyncio.timeout(10):
        assert await pods.list() == []


async def test_a_preparation_may_take_longer_than_a_question(
    service: Service, pods: LocalPods
) -> None:
    # httpx alone would give up after five seconds.
    service.seconds = 5.5
    await pods.prepare(POD, TARGET, 60.0)
    assert len(service.asked) == 1


async def test_a_call_to_a_pod_uses_no_proxy_and_no_certificates_of_the_environment(
    service: Service, pods: LocalPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/certificates.pem")
    admin_client._trusted.cache_clear()
    assert await pods.list() == [PodRef("local", ready=True)]


async def test_an_error_shows_the_address_and_no_password() -> None:
    port = free_port()
    client = PodAdminClient(f"http://me:secret@127.0.0.1:{port}", "token")
    with pytest.raises(PodUnresponsiveError, match=rf"http://127\.0\.0\.1:{port}/ready") as error:
        await client.ready()
    assert "secret" not in str(error.value)


def test_an_address_that_is_no_url_names_its_setting() -> None:
    with pytest.raises(SettingsError, match="FRAUDOPS_URL"):
        PodAdminClient("http://127.0.0.1:port", "token")
