"""The chart's policies about the Kubernetes API, in a namespace without the product.

tests/cluster/test_access.py tries the connections between the parts of the release.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import yaml

from tests.cluster.api_server import ApiServer
from tests.cluster.neighbours import in_namespace
from tests.cluster.release import CHART, Release, run
from tests.support.waiting import eventually

# One of the default ports of `networkPolicy.apiServer`, and no privileged one.
PORT = 6443
LISTEN = f"""
import socket
server = socket.create_server(("", {PORT}))
while True:
    server.accept()[0].close()
"""
# Prints the targets (NAME=HOST:PORT) that accept a connection.
TRY = """
import socket, sys
for target in sys.argv[1:]:
    name, _, address = target.partition("=")
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
    except OSError:
        continue
    print(name)
"""
ALLOWED, OTHER, LISTENER = "allowed", "other", "listener"


def apply_policies(release: Release, values: dict[str, Any]) -> None:
    """Apply the network policies of the chart, and nothing else of it."""
    command = ("helm", "template", release.name, str(CHART), "--namespace", release.namespace)
    text = run(*command, "--values", "-", stdin=json.dumps(values))
    policies = [found for found in yaml.safe_load_all(text) if found]
    policies = [found for found in policies if found["kind"] == "NetworkPolicy"]
    assert policies
    release.apply({"apiVersion": "v1", "kind": "List", "items": policies})


def namespace_of(release: Release, name: str) -> AbstractContextManager[Release]:
    return in_namespace(release, f"fraudops-{name}-{uuid.uuid4().hex[:6]}")


@pytest.fixture(scope="module")
def site(release: Release) -> Iterator[tuple[Release, str]]:
    """Yield a namespace with clients, and the address of a listener in another namespace."""
    with namespace_of(release, "listener") as outside, namespace_of(release, "policies") as inside:
        outside.apply(outside.client_pod(LISTENER, ["python", "-c", LISTEN], {}))
        rights = {ALLOWED: "fraudops.io/access-api", OTHER: "fraudops.io/access-mlflow"}
        for client, label in rights.items():
            pod = inside.client_pod(client, ["sleep", "600"], {label: "true"})
            # No policy holds a connection to the pod's own node, where the API server may run.
            pod["spec"]["nodeName"] = f"{release.context.removeprefix('kind-')}-worker"
            inside.apply(pod)
        waiting = ("--for=condition=Ready", "--timeout=120s")
        outside.kubectl("wait", f"pod/{LISTENER}", *waiting)
        inside.kubectl("wait", f"pod/{ALLOWED}", f"pod/{OTHER}", *waiting)
        address = outside.get("pod", LISTENER)["status"]["podIP"]
        yield inside, f"{address}:{PORT}"


def must_reach(release: Release, client: str, targets: dict[str, str], expected: set[str]) -> None:
    """Wait until the node has applied the policies."""
    words = [f"{name}={address}" for name, address in targets.items()]

    def check() -> None:
        found = set(release.kubectl("exec", client, "--", "python", "-c", TRY, *words).split())
        assert found == expected

    eventually(check, 60, 1.0)


def test_listed_addresses_let_pods_reach_the_api_server_and_nothing_else(
    site: tuple[Release, str],
) -> None:
    release, listener = site
    server = ApiServer.of(release)
    targets = {"api": f"{server.cluster_ip}:443", "outside": listener}
    # By default any address is allowed. It also shows that the listener answers.
    apply_policies(release, {})
    must_reach(release, ALLOWED, targets, {"api", "outside"})
    must_reach(release, OTHER, targets, set())
    apply_policies(release, {"networkPolicy": {"apiServer": server.values()}})
    must_reach(release, ALLOWED, targets, {"api"})
    must_reach(release, OTHER, targets, set())
