"""Create the objects that outlive a release: Secrets, the serving record, the data claim.

The chart runs this program. Its account may create objects and never read them. An existing object
is left as it is, so running the program again changes nothing.
"""

import asyncio
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click

from fraudops.cluster.api import Cluster
from fraudops.promotion.ports import StaleRecordError
from jobs.runner import notices, run

PASSWORD_BYTES = 24
# Key in the Secret: role, which is also the name of the role's database.
DATABASES = {"url": "fraudops", "mlflow-url": "mlflow", "admin-url": "postgres"}


@dataclass(frozen=True)
class KubernetesObject:
    """One object; `resource` is its plural in the API's core group."""

    resource: str
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])


def secret(name: str, labels: Mapping[str, str], values: Mapping[str, str]) -> KubernetesObject:
    return KubernetesObject(
        "secrets",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": _metadata(name, labels),
            "type": "Opaque",
            "stringData": dict(values),
        },
    )


def record(name: str, labels: Mapping[str, str]) -> KubernetesObject:
    """Return an empty serving record.

    The promotion only updates it, so this Job is the only one that may create ConfigMaps.
    """
    return KubernetesObject(
        "configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(name, labels)}
    )


def claim(
    name: str, labels: Mapping[str, str], size: str, storage_class: str | None
) -> KubernetesObject:
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": size}},
    }
    if storage_class:
        spec["storageClassName"] = storage_class
    return KubernetesObject(
        "persistentvolumeclaims",
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": _metadata(name, labels),
            "spec": spec,
        },
    )


def database_values(host: str) -> dict[str, str]:
    """Return the content of the database Secret: a URL per database, and a password.

    Every role gets a different random password. `password` is the superuser's, which the
    PostgreSQL container reads.
    """
    passwords = {key: secrets.token_urlsafe(PASSWORD_BYTES) for key in DATABASES}
    urls = {
        key: f"postgresql://{role}:{quote(passwords[key])}@{host}:5432/{role}"
        for key, role in DATABASES.items()
    }
    return urls | {"password": passwords["admin-url"]}


def _metadata(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "labels": {"app.kubernetes.io/name": "fraudops", **labels}}


async def create_missing(objects: Iterable[KubernetesObject]) -> None:
    """Create the objects that do not exist yet.

    Raises ForbiddenError, StoreDownError or UnknownWriteError. Kubernetes then repeats the Job.
    """
    async with Cluster.connect(os.environ.get("FRAUDOPS_CLUSTER__NAMESPACE")) as cluster:
        for each in objects:
            label = f"{each.manifest['kind']} {each.name}"
            try:
                await cluster.call("POST", cluster.path("v1", each.resource), each.manifest)
            except StaleRecordError:
                # The API answers 409: the object exists.
                notices.print(f"{label} exists already: left as it is", markup=False)
            else:
                notices.print(f"{label} created", markup=False)


def _to_labels(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    return dict(value.split("=", 1) for value in values)


@dataclass(frozen=True)
class SetupOptions:
    """The names of the objects to create; None leaves an object out."""

    record_name: str | None
    admin_secret: str | None
    admin_key: str
    database_secret: str | None
    database_host: str | None
    data_claim: str | None
    data_size: str
    data_storage_class: str | None
    labels: dict[str, str]

    def objects(self) -> Iterator[KubernetesObject]:
        if self.admin_secret:
            token = secrets.token_urlsafe(PASSWORD_BYTES)
            yield secret(self.admin_secret, self.labels, {self.admin_key: token})
        if self.database_secret and self.database_host:
            yield secret(self.database_secret, self.labels, database_values(self.database_host))
        if self.record_name:
            yield record(self.record_name, self.labels)
        if self.data_claim:
            yield claim(self.data_claim, self.labels, self.data_size, self.data_storage_class)


@click.command(name="setup")
@click.option("--record", "record_name", metavar="NAME", help="ConfigMap of the serving record.")
@click.option("--admin-secret", metavar="NAME", help="Secret of the admin token.")
@click.option(
    "--admin-key",
    default="token",
    show_default=True,
    metavar="KEY",
    help="Key of the token in that Secret.",
)
@click.option(
    "--database-secret", metavar="NAME", help="Secret of the databases' URLs and passwords."
)
@click.option("--database-host", metavar="HOST", help="Host name of that PostgreSQL.")
@click.option("--data-claim", metavar="NAME", help="Claim of the data volume.")
@click.option(
    "--data-size",
    default="5Gi",
    show_default=True,
    metavar="QUANTITY",
    help="Size of the data volume.",
)
@click.option(
    "--data-storage-class",
    metavar="NAME",
    help="StorageClass of the data volume. [default: the cluster's]",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_to_labels,
    metavar="KEY=VALUE",
    help="A label of each object (repeatable).",
)
def command(**options: Any) -> None:
    """Create the objects that outlive the release and do not exist yet."""
    asyncio.run(create_missing(SetupOptions(**options).objects()))


if __name__ == "__main__":
    run(command)
