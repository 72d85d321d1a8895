"""The epoch of a pod whose workers serve nothing yet, and which servers a call trusts."""

import asyncio
import json
import ssl
from typing import Any

import pytest

from fraudops.promotion import admin_client
from fraudops.promotion.admin_client import PodAdminClient


async def epoch_of(body: dict[str, Any]) -> int:
    """Return what a pod with that answer counts as."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        data = json.dumps(body).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        return await PodAdminClient(f"http://127.0.0.1:{port}", "token").epoch()
    finally:
        server.close()


@pytest.mark.parametrize("workers", [[], [{}], [{"epoch": None}], [{"epoch": 0}]])
async def test_workers_that_serve_nothing_are_at_epoch_0(workers: list[Any]) -> None:
    assert await epoch_of({"workers": workers}) == 0


async def test_one_worker_that_serves_counts_for_the_pod() -> None:
    assert await epoch_of({"workers": [{"epoch": None}, {"epoch": 3}, {"epoch": 2}]}) == 3


def test_a_call_trusts_only_a_server_with_a_valid_certificate() -> None:
    # An earlier test may have created the context.
    admin_client._trusted.cache_clear()
    context = admin_client._trusted()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
