"""A strict release with an external PostgreSQL, as a platform team installs it."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from tests.cluster.release import CHART, RESTRICTED, ROOT, Object, Release, values_of_neighbour
from tests.support.certificates import make_authority

NAMESPACE, DATABASE = "strict", "strict-db"
HOST = f"postgres.{DATABASE}.svc.cluster.local"
PASSWORD = "of-the-strict-tests"
SECRET, CA = "fraudops-postgres", "postgres-ca"
# Helm 4 calls `--atomic` so. A failed installation is uninstalled.
ATOMIC = ("--wait", "--rollback-on-failure", "--timeout", "8m")


@contextmanager
def strict_release(release: Release, folder: Path) -> Iterator[Release]:
    """Install the release with `--atomic` in a namespace of its own, and delete it at the end.

    No model serves in it yet.
    """
    values = strict_values(release)
    database = ("--namespace", DATABASE, "pod/postgres")
    own = replace(release, namespace=NAMESPACE, values=values, database=database)
    for name in (NAMESPACE, DATABASE):
        release.kubectl("create", "namespace", name)
    try:
        start_postgresql(release, folder)
        install(own, ATOMIC)
        yield own
    finally:
        # The policies belong to no namespace.
        own.helm("uninstall", own.name, "--ignore-not-found")
        for name in (NAMESPACE, DATABASE):
            release.kubectl("delete", "namespace", name, "--wait=false")


def install(own: Release, options: tuple[str, ...]) -> None:
    with own.values_file() as file:
        production = str(ROOT / "k8s" / "values" / "production.yaml")
        files = ("--values", production, "--values", file)
        own.helm("upgrade", "--install", own.name, str(CHART), *files, *options)


def strict_values(release: Release) -> Object:
    """Return what the site adds to k8s/values/production.yaml: addresses, sizes, images."""
    small = values_of_neighbour(release)
    inference = small["inference"] | {
        "replicas": 2,
        "workers": 2,
        "state": {"type": "emptyDir"},
        "autoscaling": {"enabled": False},
    }
    return small | {
        # The tests promote models of the packaged sample.
        "environment": "development",
        "bootstrap": small["bootstrap"] | {"enabled": False},
        "inference": inference,
        "serviceMonitor": {"enabled": False},
        "prometheusRule": {"enabled": False},
        "postgresql": {
            "enabled": False,
            "existingSecret": SECRET,
            "tls": {"existingSecret": CA, "mode": "verify-full"},
        },
        "networkPolicy": {
            "apiServer": {"cidrs": api_server(release), "ports": [443, 6443]},
            "postgresql": {"cidrs": [], "peers": [_namespace(DATABASE)]},
        },
    }


def _namespace(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def api_server(release: Release) -> list[str]:
    """Return the ClusterIP of the Kubernetes API and the addresses behind it, as ranges."""
    service = release.get("service", "kubernetes", "--namespace", "default")
    slices = release.get(
        *("endpointslice", "--namespace", "default"),
        *("-l", "kubernetes.io/service-name=kubernetes"),
    )
    behind = [
        address
        for item in slices["items"]
        for endpoint in item["endpoints"]
        for address in endpoint["addresses"]
    ]
    return [
        f"{address}/{128 if ':' in address else 32}"
        for address in (service["spec"]["clusterIP"], *behind)
    ]


def start_postgresql(release: Release, folder: Path) -> None:
    """Start PostgreSQL with TLS, and make the two Secrets that name it."""
    authority = make_authority(folder, "strict")
    certificate, key = authority.issue(folder, "server", HOST)
    files = {"server.crt": certificate.read_bytes(), "server.key": key.read_bytes()}
    urls = {
        name: f"postgresql://{role}:{PASSWORD}@{HOST}:5432/{role}".encode()
        for name, role in (("url", "fraudops"), ("mlflow-url", "mlflow"), ("admin-url", "postgres"))
    }
    for namespace, name, data in (
        (DATABASE, "server", files),
        (NAMESPACE, SECRET, urls),
        (NAMESPACE, CA, {"ca.crt": authority.file.read_bytes()}),
    ):
        encoded = {key: base64.b64encode(value).decode() for key, value in data.items()}
        made = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}
        release.kubectl("--namespace", namespace, "apply", "-f", "-", stdin=json.dumps(made))
    selector = {"app": "postgres"}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "postgres"},
        "spec": {"selector": selector, "ports": [{"port": 5432}]},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "postgres", "labels": selector},
        "spec": _postgresql_pod(),
    }
    for made in (service, pod):
        release.kubectl("--namespace", DATABASE, "apply", "-f", "-", stdin=json.dumps(made))
    release.kubectl(
        *("--namespace", DATABASE, "wait", "pod/postgres"),
        *("--for=condition=Ready", "--timeout=180s"),
    )


def _postgresql_pod() -> Object:
    image = yaml.safe_load((CHART / "values.yaml").read_text())["postgresql"]["image"]
    user = 999
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "postgres",
                "image": f"{image['repository']}:{image['tag']}",
                "args": [
                    *("-c", "ssl=on"),
                    *("-c", "ssl_cert_file=/tls/server.crt"),
                    *("-c", "ssl_key_file=/tls/server.key"),
                ],
                "env": [
                    {"name": "POSTGRES_PASSWORD", "value": PASSWORD},
                    {"name": "PGDATA", "value": "/data/pgdata"},
                ],
                "securityContext": RESTRICTED,
                "readinessProbe": {
                    "exec": {"command": ["pg_isready", "-h", "127.0.0.1", "-U", "postgres"]},
                    "periodSeconds": 2,
                },
                "volumeMounts": [
                    {"name": "data", "mountPath": "/data"},
                    {"name": "tls", "mountPath": "/tls"},
                ],
            }
        ],
        "volumes": [
            {"name": "data", "emptyDir": {}},
            # PostgreSQL refuses a key that other users may read.
            {"name": "tls", "secret": {"secretName": "server", "defaultMode": 0o640}},
        ],
    }
