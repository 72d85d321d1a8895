"""Makes what outlives a release, each once if it is absent: Secrets, the serving record, the data
volume's claim. Run by the chart.

It may create and never read. An object that is there already, whoever made it, is left as it is;
so running it again changes nothing.
"""

import asyncio
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import click

from fraudops.cluster.api import Cluster
from fraudops.promotion.ports import StaleRecordError
from jobs.runner import notices, run

PASSWORD_BYTES = 24
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
    """An empty serving record: the promotion may change it, and nobody but this Job needs the right
    to create ConfigMaps.
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
    """Urls of the audit's, MLflow's and the superuser's databases, each role of its own name and
    password, and the superuser's password alone.
    """
    passwords = {key: secrets.token_urlsafe(PASSWORD_BYTES) for key in DATABASES}
    urls = {
        key: f"postgresql://{role}:{quote(passwords[key])}@{host}:5432/{role}"
        for key, role in DATABASES.items()
    }
    return urls | {"password": passwords["admin-url"]}


def _metadata(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "labels": {"app.kubernetes.io/name": "fraudops", **labels}}


async def make(wanted: Iterator[KubernetesObject]) -> None:
    """Raises ForbiddenError, StoreDownError, UnknownWriteError; the Job is tried again then."""
    async with Cluster.connect(os.environ.get("FRAUDOPS_CLUSTER__NAMESPACE")) as cluster:
        for each in wanted:
            try:
                await cluster.call("POST", cluster.path("v1", each.resource), each.manifest)
            except StaleRecordError:
                notices.print(
                    f"{each.manifest['kind']} {each.name} is there already: left as it is",
                    markup=False,
                )
            else:
                notices.print(f"{each.manifest['kind']} {each.name} made", markup=False)


def _to_labels(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    return dict(value.split("=", 1) for value in values)


@click.command(name="setup")
@click.option("--record", "record_name", metavar="NAME", help="ConfigMap of the serving record.")
@click.option("--admin-secret", metavar="NAME", help="Secret of the admin token.")
@click.option(
    "--admin-key",
    default="token",
    show_default=True,
    metavar="KEY",
    help="The token's key in there.",
)
@click.option(
    "--database-secret", metavar="NAME", help="Secret of the databases' urls and passwords."
)
@click.option("--database-host", metavar="HOST", help="Where that PostgreSQL will answer.")
@click.option("--data-claim", metavar="NAME", help="Claim of the data volume.")
@click.option("--data-size", default="5Gi", show_default=True, metavar="QUANTITY", help="Its size.")
@click.option(
    "--data-storage-class", metavar="NAME", help="Its StorageClass. [default: the cluster's]"
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    callback=_to_labels,
    metavar="KEY=VALUE",
    help="A label of each object (repeatable).",
)
def command(
    record_name: str | None,
    admin_secret: str | None,
    admin_key: str,
    database_secret: str | None,
    database_host: str | None,
    data_claim: str | None,
    data_size: str,
    data_storage_class: str | None,
    labels: dict[str, str],
) -> None:
    """Make what outlives the release, where it is absent."""

    def wanted() -> Iterator[KubernetesObject]:
        if admin_secret:
            yield secret(admin_secret, labels, {admin_key: secrets.token_urlsafe(PASSWORD_BYTES)})
        if database_secret and database_host:
            yield secret(database_secret, labels, database_values(database_host))
        if record_name:
            yield record(record_name, labels)
        if data_claim:
            yield claim(data_claim, labels, data_size, data_storage_class)

    asyncio.run(make(wanted()))


if __name__ == "__main__":
    run(command)
