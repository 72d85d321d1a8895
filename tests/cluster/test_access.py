"""Access in a real cluster: public calls through the ingress, pods by label, and API rights."""

import json
import uuid
from collections.abc import Iterator

import httpx
import pytest

from tests.cluster.release import URL, Release
from tests.support.known_transaction import TRANSACTION
from tests.support.waiting import eventually

ADMIN = [
    "/reload",
    "/metrics",
    "/drain",
    f"/bundles/{'0' * 64}/bundle.json",
    "/reload/",
    "/predict/../metrics",
    "//metrics",
    "/%6detrics",
]
# Prints the targets (NAME=HOST:PORT) that accept a connection. A dropped packet gets no answer
# until the timeout, so the program tries all targets in parallel.
TRY = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def attempt(target):
    name, _, address = target.partition("=")
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=3).close()
    except OSError:
        return ""
    return name
print(*ThreadPoolExecutor(8).map(attempt, sys.argv[1:]))
"""
TARGETS = {
    "inference": ("inference", 80),
    "admin": ("inference-admin", 8001),
    "mlflow": ("mlflow", 5000),
    "postgresql": ("postgresql", 5432),
}


def test_a_prediction_through_the_ingress_is_audited(release: Release) -> None:
    answer = httpx.post(
        f"{URL}/predict",
        content=TRANSACTION,
        headers={"Content-Type": "application/json"},
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    release.assert_all_audited([answer.json()["prediction_id"]])
    assert (
        httpx.get(f"{URL}/model_info", trust_env=False).json()["model"]["version"]
        == release.serving()[0]
    )


@pytest.mark.parametrize("path", ADMIN)
def test_the_ingress_answers_404_to_admin_calls(release: Release, path: str) -> None:
    token = release.get("secret", f"{release.name}-admin")["data"]["token"]
    for method in ("GET", "POST"):
        answer = httpx.request(
            method, f"{URL}{path}", headers={"Authorization": f"Bearer {token}"}, trust_env=False
        )
        assert answer.status_code == 404, f"{method} {path}: {answer.status_code}"


@pytest.fixture(scope="module")
def clients(release: Release) -> Iterator[dict[str, str]]:
    """Run one pod for each target with the label for it, and one, "stranger", without a label."""
    run = uuid.uuid4().hex[:6]
    names = {client: f"client-{client}-{run}" for client in ("stranger", *TARGETS)}
    for client, name in names.items():
        labels = {} if client == "stranger" else {f"fraudops.io/access-{client}": "true"}
        release.apply(release.client_pod(name, ["sleep", "600"], labels))
    pods = [f"pod/{name}" for name in names.values()]
    try:
        release.kubectl("wait", *pods, "--for=condition=Ready", "--timeout=120s")
        yield names
    finally:
        release.kubectl("delete", *pods, "--wait=false", "--grace-period=0", "--force", check=False)


def reached(release: Release, pod: str) -> set[str]:
    """Return the targets to which the pod can connect."""
    addresses = [
        f"{target}={release.name}-{host}:{port}" for target, (host, port) in TARGETS.items()
    ]
    return set(release.kubectl("exec", pod, "--", "python", "-c", TRY, *addresses).split())


def test_a_pod_without_a_label_reaches_nothing(release: Release, clients: dict[str, str]) -> None:
    assert reached(release, clients["stranger"]) == set()


@pytest.mark.parametrize("target", TARGETS)
def test_a_label_allows_connections_to_exactly_its_target(
    release: Release, clients: dict[str, str], target: str
) -> None:
    # The node applies the network policies a moment after the pod has started.
    eventually(lambda: must_equal(reached(release, clients[target]), {target}), 30, 1.0)


def must_equal(actual: set[str], expected: set[str]) -> None:
    assert actual == expected


def test_the_services_own_token_cannot_write_the_record(release: Release) -> None:
    """The pods' account may read one ConfigMap; the promotion's may write it."""
    answers = [
        json.dumps(
            release.kubectl(
                "auth",
                "can-i",
                verb,
                resource,
                f"--as=system:serviceaccount:{release.namespace}:{release.name}-{account}",
                check=False,
            ).strip()
        )
        for account, verb, resource in (
            ("inference", "get", f"configmap/{release.name}-serving"),
            ("inference", "patch", f"configmap/{release.name}-serving"),
            ("inference", "get", "secrets"),
            ("promotion", "patch", f"configmap/{release.name}-serving"),
            ("promotion", "delete", "deployments"),
        )
    ]
    assert answers == ['"yes"', '"no"', '"no"', '"yes"', '"no"']
