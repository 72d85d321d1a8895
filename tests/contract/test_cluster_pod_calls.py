"""The calls of a promotion that reach the pods of a cluster, on a port of this machine."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fraudops.cluster.api import Cluster
from fraudops.cluster.pods import ClusterPods
from fraudops.promotion.ports import PodUnresponsiveError
from fraudops.promotion.serving_record import ServingTarget
from tests.support.cluster_objects import create_pod
from tests.support.cluster_pods import LABELS, READY
from tests.support.cluster_ports import RELEASE

TARGET = ServingTarget(5, "8", "d" * 64)


class AdminPort:
    """Answers every call with epoch 7, and keeps what was sent."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.heads: list[str] = []

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        lengths = [line for line in head.lower().splitlines() if line.startswith("content-length")]
        if lengths:
            self.bodies.append(json.loads(await reader.readexactly(int(lengths[0].split(":")[1]))))
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"epoch":7}')
        writer.close()


@pytest.fixture
def port() -> AdminPort:
    return AdminPort()


@pytest.fixture
async def pods(cluster: Cluster, port: AdminPort) -> AsyncIterator[ClusterPods]:
    server = await asyncio.start_server(port.answer, "127.0.0.1", 0)
    await create_pod(cluster, "a", labels=LABELS, status=READY | {"podIP": "127.0.0.1"})
    number = server.sockets[0].getsockname()[1]
    yield ClusterPods(cluster, RELEASE, "secret", admin_port=number)
    server.close()


async def test_each_call_reaches_the_pod_with_its_own_arguments(
    pods: ClusterPods, port: AdminPort
) -> None:
    (pod,) = await pods.list()
    await pods.prepare(pod, TARGET, 2.0)
    assert await pods.activate(pod, 6, 2.0) == 7
    await pods.drop(pod, TARGET)
    named = {"version": "8", "digest": "d" * 64, "epoch": 5}
    assert port.bodies == [
        named | {"phase": "prepare", "deadline_seconds": 32.0},
        {"phase": "commit", "epoch": 6},
        named | {"phase": "drop"},
    ]
    assert all("authorization: bearer secret" in head.lower() for head in port.heads)


async def test_a_pod_is_called_on_the_admin_port_of_the_chart(cluster: Cluster) -> None:
    await create_pod(cluster, "a", labels=LABELS, status=READY | {"podIP": "no.host.invalid"})
    pods = ClusterPods(cluster, RELEASE, "token")
    (pod,) = await pods.list()
    with pytest.raises(PodUnresponsiveError, match=r"http://no\.host\.invalid:8001/ready"):
        await pods.epoch(pod)
