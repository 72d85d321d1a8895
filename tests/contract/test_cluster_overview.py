"""What `fraudops status --on-cluster` says when a pod cannot be reached."""

import aiohttp
import pytest

from fraudops.cluster import api
from fraudops.cluster.api import Cluster
from fraudops.cluster.overview import look
from tests.support.cluster_objects import create_pod
from tests.support.cluster_pods import LABELS, READY
from tests.support.cluster_ports import RELEASE
from tests.support.kube_api import Fault, KubeApi


@pytest.mark.parametrize("then", ["silence", "cut", 503])
async def test_a_pod_on_a_dead_node_is_shown_as_one_that_does_not_say(
    kube_api: KubeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, then: str | int
) -> None:
    """The API server's own call to such a pod ends without an answer."""
    monkeypatch.setattr(api, "ORDINARY", aiohttp.ClientTimeout(total=2))
    await create_pod(cluster, "a", labels=LABELS, status=READY)
    kube_api.faults.append(Fault("GET", "/proxy/ready", then, times=2))  # type: ignore[arg-type]
    overview = await look(cluster, RELEASE)
    (pod,) = overview.pods
    assert (pod.name, pod.epoch) == ("a", None)
    assert "cannot be reached" in str(pod.reason)
