"""The services and the API server that the tests of the contracts call."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fraudops.cluster.api import Cluster
from tests.support.cluster_objects import create_namespace
from tests.support.kube_api import KubeApi
from tests.support.serving import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two workers that serves version 1 in epoch 1."""
    started = Service(tmp_path_factory.mktemp("service")).promoted(1)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without a promoted model and without an admin token."""
    started = Service(
        tmp_path_factory.mktemp("empty"), workers=1, environment={"FRAUDOPS_ADMIN_TOKEN": ""}
    ).start()
    yield started
    started.stop()


@pytest.fixture
async def kube_api() -> AsyncIterator[KubeApi]:
    async with KubeApi().running() as started:
        yield started


@pytest.fixture
async def cluster(
    kube_api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    """Yield an administrator's client of an empty namespace of the fake API server."""
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", str(kube_api.kubeconfig(tmp_path / "kubeconfig")))
    async with Cluster.connect("test") as client:
        await create_namespace(client)
        yield client


@pytest.fixture
async def stranger(
    cluster: Cluster, kube_api: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    """Yield a client of the same namespace whose user has no rights."""
    config = kube_api.kubeconfig(tmp_path / "stranger", "stranger-token")
    monkeypatch.setenv("KUBECONFIG", str(config))
    async with Cluster.connect(cluster.namespace) as client:
        yield client
