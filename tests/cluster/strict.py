"""A strict release with an external PostgreSQL, as a platform team installs it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from fraudops.api_keys import ApiKey, digest_of, new_api_key, write_api_keys
from tests.cluster.api_server import ApiServer
from tests.cluster.neighbours import in_namespace, values_of_neighbour
from tests.cluster.release import CHART, RESTRICTED, ROOT, Object, Release
from tests.support.certificates import make_authority

NAMESPACE, DATABASE = "strict", "strict-db"
HOST = f"postgres.{DATABASE}.svc.cluster.local"
PASSWORD = "of-the-strict-tests"
SECRET, CA = "fraudops-postgres", "postgres-ca"
# Of the hashes of the clients' keys, as k8s/values/production.yaml names it, and of one key.
KEY_HASHES, KEY = "fraudops-client-keys", "client-key"
# `--rollback-on-failure` is Helm 4's name of `--atomic`: a failed installation is uninstalled.
ATOMIC = ("--wait", "--rollback-on-failure", "--timeout", "8m")
# The server without its image. PostgreSQL refuses a key that other users may read.
POSTGRESQL = f"""
apiVersion: v1
kind: Service
metadata: {{name: postgres}}
spec: {{selector: {{app: postgres}}, ports: [{{port: 5432}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: postgres, labels: {{app: postgres}}}}
spec:
  automountServiceAccountToken: false
  securityContext:
    runAsNonRoot: true
    runAsUser: 999
    runAsGroup: 999
    fsGroup: 999
    seccompProfile: {{type: RuntimeDefault}}
  containers:
    - name: postgres
      args:
        - postgres
        - "-c"
        - ssl=on
        - "-c"
        - ssl_cert_file=/tls/server.crt
        - "-c"
        - ssl_key_file=/tls/server.key
      env:
        - {{name: POSTGRES_PASSWORD, value: {PASSWORD}}}
        - {{name: PGDATA, value: /data/pgdata}}
      readinessProbe:
        exec: {{command: [pg_isready, -h, 127.0.0.1, -U, postgres]}}
        periodSeconds: 2
      volumeMounts:
        - {{name: data, mountPath: /data}}
        - {{name: data, mountPath: /var/run/postgresql, subPath: run}}
        - {{name: tls, mountPath: /tls}}
  volumes:
    - {{name: data, emptyDir: {{}}}}
    - {{name: tls, secret: {{secretName: server, defaultMode: 0640}}}}
"""


@contextmanager
def strict_release(release: Release, folder: Path) -> Iterator[Release]:
    """Install the release with `--atomic` in a namespace of its own, and delete it at the end.

    No model serves in it yet.
    """
    words = ("--namespace", DATABASE, "pod/postgres")
    strict = replace(release, values=strict_values(release), database=words, key_secret=KEY)
    with (
        in_namespace(release, DATABASE) as database,
        in_namespace(strict, NAMESPACE) as own,
    ):
        make_secrets(own, database, folder)
        start_postgresql(database)
        try:
            install(own, ATOMIC)
            yield own
        finally:
            # The policies belong to no namespace.
            own.helm("uninstall", own.name, "--ignore-not-found")


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
        "clientAuth": {"testKeyExistingSecret": KEY},
        "serviceMonitor": {"enabled": False},
        "prometheusRule": {"enabled": False},
        "postgresql": {
            "enabled": False,
            "existingSecret": SECRET,
            "tls": {"existingSecret": CA, "mode": "verify-full"},
        },
        "networkPolicy": {
            "apiServer": ApiServer.of(release).values(),
            "postgresql": {"cidrs": [], "peers": [_namespace(DATABASE)]},
        },
    }


def _namespace(name: str) -> Object:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def make_secrets(own: Release, database: Release, folder: Path) -> None:
    """Make the Secret with the server's certificate, and those that the release reads."""
    authority = make_authority(folder, "strict")
    certificate, key = authority.issue(folder, "server", HOST)
    roles = {"url": "fraudops", "mlflow-url": "mlflow", "admin-url": "postgres"}
    urls = {
        name: f"postgresql://{role}:{PASSWORD}@{HOST}:5432/{role}" for name, role in roles.items()
    }
    clients, hashes = new_api_key(), folder / "keys.json"
    allowed = ApiKey(name="tests", sha256=digest_of(clients).hex(), scopes=("predict",))
    write_api_keys(hashes, [allowed])
    files = {"server.crt": certificate.read_text(), "server.key": key.read_text()}
    for release, name, data in (
        (database, "server", files),
        (own, SECRET, urls),
        (own, CA, {"ca.crt": authority.file.read_text()}),
        (own, KEY_HASHES, {"keys.json": hashes.read_text()}),
        (own, KEY, {"key": clients}),
    ):
        metadata = {"name": name}
        release.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
        )


def start_postgresql(database: Release) -> None:
    """Start PostgreSQL with TLS, and return when it answers."""
    image = yaml.safe_load((CHART / "values.yaml").read_text())["postgresql"]["image"]
    service, pod = yaml.safe_load_all(POSTGRESQL)
    (container,) = pod["spec"]["containers"]
    container |= {"image": f"{image['repository']}:{image['tag']}", "securityContext": RESTRICTED}
    for made in (service, pod):
        database.apply(made)
    database.kubectl("wait", "pod/postgres", "--for=condition=Ready", "--timeout=180s")
