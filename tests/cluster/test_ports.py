"""The promotion's ports on a real cluster, and the proof that the fake API server is like it.

The contracts are those that tests/contract runs on the fake.
"""

import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fraudops.cluster.api import Cluster, NotFoundError
from tests.cluster.release import Release
from tests.support.cluster_approval import ApprovalContract
from tests.support.cluster_objects import create_namespace
from tests.support.cluster_pods import PodsContract
from tests.support.cluster_ports import ConfigMapContract, LeaseContract, RolloutsContract, soon
from tests.support.kube_api_contract import KubeApiContract


@pytest.fixture
async def cluster(release: Release) -> AsyncIterator[Cluster]:
    """Yield a client for a new namespace, which is deleted after the test."""
    async with Cluster.connect(f"fraudops-test-{uuid.uuid4().hex[:8]}") as client:
        await create_namespace(client)
        try:
            await soon(lambda: has_default_account(client))
            yield client
        finally:
            await client.call("DELETE", f"/api/v1/namespaces/{client.namespace}")


async def has_default_account(cluster: Cluster) -> bool:
    """Tell whether pods can be created already."""
    try:
        await cluster.call("GET", cluster.path("v1", "serviceaccounts", "default"))
    except NotFoundError:
        return False
    return True


@pytest.fixture
async def stranger(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Cluster]:
    """Yield a client of the same namespace, by a ServiceAccount without rights."""
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "stranger"}}
    path = cluster.path("v1", "serviceaccounts")
    await cluster.call("POST", path, account)
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = (await cluster.call("POST", f"{path}/stranger/token", request))["status"]["token"]
    settings = cluster._api.configuration
    server = {"server": settings.host, "insecure-skip-tls-verify": True}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "it", "cluster": server}],
        "users": [{"name": "stranger", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "stranger"}}],
        "current-context": "it",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    async with Cluster.connect(cluster.namespace) as client:
        yield client


class TestRealApi(KubeApiContract):
    pass


class TestConfigMapRecords(ConfigMapContract):
    pass


class TestLeaseLock(LeaseContract):
    pass


class TestRollouts(RolloutsContract):
    pass


class TestPods(PodsContract):
    pass


class TestApprovals(ApprovalContract):
    pass
