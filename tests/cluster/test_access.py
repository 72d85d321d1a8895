"""Who reaches what: the public calls through the ingress, nothing else through it, and pods only by
their labels.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

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
# Connects, and says whether it could.
TRY = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3); print('open')"
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
def test_admin_calls_are_not_there_for_the_ingress(release: Release, path: str) -> None:
    token = release.get("secret", f"{release.name}-admin")["data"]["token"]
    for method in ("GET", "POST"):
        answer = httpx.request(
            method, f"{URL}{path}", headers={"Authorization": f"Bearer {token}"}, trust_env=False
        )
        assert answer.status_code == 404, f"{method} {path}: {answer.status_code}"


@contextmanager
def pod(release: Release, labels: dict[str, str]) -> Iterator[str]:
    name = f"client-{uuid.uuid4().hex[:6]}"
    release.apply(release.client_pod(name, ["sleep", "600"], labels))
    try:
        release.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=120s")
        yield name
    finally:
        release.kubectl(
            "delete", f"pod/{name}", "--wait=false", "--grace-period=0", "--force", check=False
        )


def reaches(release: Release, name: str, target: str) -> bool:
    host, port = TARGETS[target]
    return "open" in release.kubectl(
        "exec", name, "--", "python", "-c", TRY, f"{release.name}-{host}", str(port), check=False
    )


def test_a_pod_without_a_label_reaches_nothing(release: Release) -> None:
    with pod(release, {}) as stranger:
        assert [target for target in TARGETS if reaches(release, stranger, target)] == []


@pytest.mark.parametrize("target", TARGETS)
def test_a_label_opens_exactly_its_door(release: Release, target: str) -> None:
    with pod(release, {f"fraudops.io/access-{target}": "true"}) as client:

        def check() -> None:
            assert [other for other in TARGETS if reaches(release, client, other)] == [target]

        eventually(check, 30, 1.0)


def test_nobody_writes_the_record_with_the_services_own_token(release: Release) -> None:
    """The pods' account may read one ConfigMap; the promotion's may write it."""
    may = [
        json.dumps(
            release.kubectl(
                "auth",
                "can-i",
                verb,
                what,
                f"--as=system:serviceaccount:{release.namespace}:{release.name}-{account}",
                check=False,
            ).strip()
        )
        for account, verb, what in (
            ("inference", "get", f"configmap/{release.name}-serving"),
            ("inference", "patch", f"configmap/{release.name}-serving"),
            ("inference", "get", "secrets"),
            ("promotion", "patch", f"configmap/{release.name}-serving"),
            ("promotion", "delete", "deployments"),
        )
    ]
    assert may == ['"yes"', '"no"', '"no"', '"yes"', '"no"']
