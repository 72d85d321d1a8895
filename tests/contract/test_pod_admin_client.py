"""The admin calls of one pod, against a real HTTP server that answers as it is told."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from fraudops.cluster.api import Cluster
from fraudops.cluster.pods import ClusterPods
from fraudops.promotion.admin_client import TEMPORARY, PodAdminClient
from fraudops.promotion.ports import PodRef, PodRefusedError, PodUnresponsiveError
from fraudops.promotion.serving_record import ServingTarget
from tests.support.cluster_objects import create_pod
from tests.support.cluster_pods import LABELS, READY
from tests.support.cluster_ports import RELEASE
from tests.support.processes import free_port

TARGET = ServingTarget(5, "8", "d" * 64)
REASON = {"title": "Refused", "detail": "the bundle of version 8 is not whole"}


@dataclass
class Pod:
    """A pod's admin port. `page`, if set, is the answer instead of the JSON `body`."""

    status: int = 200
    body: Any = field(default_factory=dict)
    page: str = ""
    silent: bool = False
    drips: bool = False
    port: int = 0
    asked: list[tuple[str, str, Any, str]] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        token = request.headers["Authorization"]
        self.asked.append((request.method, request.path, body, token))
        if self.silent:
            await self.closing.wait()
        if self.drips:
            return await self._drip(request)
        if self.page:
            return web.Response(status=self.status, text=self.page)
        return web.json_response(self.body, status=self.status)

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        """Send a byte now and then, so that no single read of the client takes long."""
        response = web.StreamResponse()
        await response.prepare(request)
        while not self.closing.is_set():
            try:
                await response.write(b" ")
            except ConnectionError:
                break
            await asyncio.sleep(0.05)
        return response


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    served = Pod()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", served.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    served.port = runner.addresses[0][1]
    yield served
    served.closing.set()
    await runner.cleanup()


@pytest.fixture
def client(pod: Pod) -> PodAdminClient:
    return PodAdminClient(f"http://127.0.0.1:{pod.port}/", "token")


async def test_each_call_sends_what_the_pod_expects(pod: Pod, client: PodAdminClient) -> None:
    pod.body = {"epoch": 5}
    await client.prepare(TARGET, 2.0)
    assert await client.activate(5, 2.0) == 5
    await client.drop(TARGET)
    named = {"version": "8", "digest": "d" * 64, "epoch": 5}
    # The pod keeps a prepared version for 30 s longer than the call may take.
    prepare = {"phase": "prepare", "deadline_seconds": 32.0} | named
    for asked, body in zip(
        pod.asked,
        (prepare, {"phase": "commit", "epoch": 5}, {"phase": "drop"} | named),
        strict=True,
    ):
        assert asked == ("POST", "/reload", body, "Bearer token")


@pytest.mark.parametrize("status", sorted(TEMPORARY))
async def test_a_temporary_refusal_is_no_refusal_and_has_the_reason_of_the_pod(
    pod: Pod, client: PodAdminClient, status: int
) -> None:
    pod.status, pod.body = status, REASON
    for call in (client.prepare(TARGET, 2.0), client.activate(5, 2.0), client.drop(TARGET)):
        with pytest.raises(PodUnresponsiveError, match="the bundle of version 8 is not whole"):
            await call


@pytest.mark.parametrize("status", [201, 302, 400, 401, 403, 404, 409, 413, 422, 501])
async def test_every_other_answer_is_a_refusal_with_the_reason_of_the_pod(
    pod: Pod, client: PodAdminClient, status: int
) -> None:
    pod.status, pod.body = status, REASON
    for call in (client.prepare(TARGET, 2.0), client.activate(5, 2.0), client.drop(TARGET)):
        with pytest.raises(PodRefusedError, match="the bundle of version 8 is not whole"):
            await call


@pytest.mark.parametrize(
    ("body", "page", "reason"),
    [
        ({"title": "Refused"}, "", "Refused"),
        ({"detail": "", "title": ""}, "", "answered 409"),
        ([], "", "answered 409"),
        (None, "<html>a proxy</html>", "answered 409"),
    ],
)
async def test_a_refusal_without_a_reason_names_its_status(
    pod: Pod, client: PodAdminClient, body: Any, page: str, reason: str
) -> None:
    pod.status, pod.body, pod.page = 409, body, page
    with pytest.raises(PodRefusedError) as refused:
        await client.prepare(TARGET, 2.0)
    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("body", "page"), [({}, ""), ({"epoch": None}, ""), ([], ""), (None, "ok")]
)
async def test_an_activation_without_an_epoch_is_not_confirmed(
    pod: Pod, client: PodAdminClient, body: Any, page: str
) -> None:
    pod.body, pod.page = body, page
    with pytest.raises(PodUnresponsiveError, match=r"without an epoch|JSON"):
        await client.activate(5, 2.0)


async def test_a_pod_that_is_silent_or_slow_does_not_hold_a_call_beyond_its_time(
    pod: Pod, client: PodAdminClient
) -> None:
    for fault in ("silent", "drips"):
        setattr(pod, fault, True)
        async with asyncio.timeout(20):
            with pytest.raises(PodUnresponsiveError, match="/reload did not answer"):
                await client.prepare(TARGET, 0.3)
        setattr(pod, fault, False)


async def test_an_address_where_no_pod_can_answer_is_an_unresponsive_pod() -> None:
    # httpx refuses the last one itself: InvalidURL is not one of its HTTPErrors.
    for address in (f"127.0.0.1:{free_port()}", "no.such.host.invalid", "[fe80::1%25\x7f]"):
        with pytest.raises(PodUnresponsiveError, match="did not answer"):
            await PodAdminClient(f"http://{address}", "token").prepare(TARGET, 5.0)


async def test_the_epoch_is_the_highest_of_the_workers_also_of_a_pod_that_is_not_ready(
    pod: Pod, client: PodAdminClient
) -> None:
    for status, workers, epoch in (
        (200, [{"epoch": 4}, {"epoch": 5}], 5),
        (503, [{"epoch": 4}, {"epoch": None}, {}], 4),
        (503, [], 0),
    ):
        pod.status, pod.body = status, {"workers": workers}
        assert await client.epoch() == epoch
        assert await client.ready() == (status == 200)


async def test_an_answer_without_workers_says_nothing_about_the_epoch(
    pod: Pod, client: PodAdminClient
) -> None:
    for status, body in ((404, REASON), (503, {"detail": REASON["detail"], "workers": None})):
        pod.status, pod.body = status, body
        with pytest.raises(PodUnresponsiveError, match="is not whole"):
            await client.epoch()


async def test_the_pods_of_a_cluster_are_called_on_their_own_address(
    pod: Pod, cluster: Cluster
) -> None:
    pods = ClusterPods(cluster, RELEASE, "token", admin_port=pod.port)
    status = READY | {"podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
    await create_pod(cluster, "a", labels=LABELS, status=status)
    await create_pod(cluster, "b", labels=LABELS, status=READY | {"podIP": "::1"})
    first, second = await pods.list()
    pod.body = {"epoch": 5, "workers": [{"epoch": 5}]}
    await pods.prepare(first, TARGET, 2.0)
    await pods.drop(first, TARGET)
    assert (await pods.activate(first, 5, 2.0), await pods.epoch(first)) == (5, 5)
    with pytest.raises(PodUnresponsiveError, match=rf"http://\[::1\]:{pod.port}/ready"):
        await pods.epoch(second)
    with pytest.raises(PodUnresponsiveError, match="no address yet"):
        await pods.epoch(PodRef("unknown", ready=True))
