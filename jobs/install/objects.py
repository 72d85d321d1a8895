"""Objects of Kubernetes that outlive a release, and how the setup Job creates or completes them."""

import base64
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.cluster.kept import NEVER_NAMED, adoption, kept_metadata
from fraudops.errors import SettingsError, StoreDownError
from fraudops.promotion.ports import StaleRecordError
from fraudops.urls import split_url

PASSWORD_BYTES = 24
# Key in the Secret: role, which is also the name of the role's database.
DATABASES = {"url": "fraudops", "mlflow-url": "mlflow", "admin-url": "postgres"}
ADMIN_KEY, PASSWORD_KEY = "admin-url", "password"
# Another writer may change an object between a read and a write. After so many times in a row the
# Job gives up, and Kubernetes repeats it.
ATTEMPTS = 5
CREATED = "created"
# Objects of these resources get what they lack. The setup Job may not change others.
COMPLETED = ("secrets", "persistentvolumeclaims")


@dataclass(frozen=True)
class KubernetesObject:
    """One object; `resource` is its plural in the API."""

    resource: str
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    def path(self, cluster: Cluster, name: str = "") -> str:
        return cluster.path(self.manifest["apiVersion"], self.resource, name)


def secret(name: str, release: str, values: Mapping[str, str]) -> KubernetesObject:
    return KubernetesObject(
        "secrets",
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": kept_metadata(name, release),
            "type": "Opaque",
            "stringData": dict(values),
        },
    )


def record(name: str, release: str, lost: bool = False) -> KubernetesObject:
    """Return an empty serving record.

    The promotion only updates it, so this Job is the only one that may create ConfigMaps. A pod
    without a model is ready only if the record has the mark `never-named`. A record that replaces
    a `lost` one has no mark, because other pods may still serve what the lost one named.
    """
    metadata = kept_metadata(name, release)
    if not lost:
        metadata["annotations"][NEVER_NAMED] = "true"
    return KubernetesObject(
        "configmaps", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
    )


def lock(name: str, release: str) -> KubernetesObject:
    """Return the promotion lock, which no promoter holds yet.

    It is not in the chart, because Argo CD applies no Lease.
    """
    return KubernetesObject(
        "leases",
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": kept_metadata(name, release),
        },
    )


def claim(name: str, release: str, size: str, storage_class: str | None) -> KubernetesObject:
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
            "metadata": kept_metadata(name, release),
            "spec": spec,
        },
    )


def database_values(host: str) -> dict[str, str]:
    """Return the content of the database Secret: a URL per database, and a password.

    Every role gets a different random password. `password` is the superuser's, which the
    PostgreSQL container reads.
    """
    passwords = {key: secrets.token_urlsafe(PASSWORD_BYTES) for key in DATABASES}
    urls = {key: database_url(key, passwords[key], host) for key in DATABASES}
    return urls | {PASSWORD_KEY: passwords[ADMIN_KEY]}


def database_url(key: str, password: str, host: str) -> str:
    role = DATABASES[key]
    return f"postgresql://{role}:{quote(password, safe='')}@{host}:5432/{role}"


def missing_values(wanted: Mapping[str, str], existing: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the keys that an existing Secret lacks.

    `admin-url` and `password` hold the same password. If one of the two exists, the other one gets
    the password from it. Raises SettingsError if `admin-url` is malformed.
    """
    missing = {key: value for key, value in wanted.items() if key not in existing}
    if PASSWORD_KEY in missing and ADMIN_KEY in existing:
        admin = split_url(existing[ADMIN_KEY], ADMIN_KEY)
        if admin.username == DATABASES[ADMIN_KEY] and admin.password:
            missing[PASSWORD_KEY] = unquote(admin.password)
    if ADMIN_KEY in missing and PASSWORD_KEY in existing:
        host = split_url(wanted[ADMIN_KEY], ADMIN_KEY).hostname or ""
        missing[ADMIN_KEY] = database_url(ADMIN_KEY, existing[PASSWORD_KEY], host)
    return missing


async def ensure(cluster: Cluster, wanted: KubernetesObject, release: str) -> str:
    """Create or complete one object, and return in words what happened. Raises as `call` does."""
    for _attempt in range(ATTEMPTS):
        try:
            await cluster.call("POST", wanted.path(cluster), wanted.manifest)
        except StaleRecordError:
            # The API answers 409: the object exists.
            if wanted.resource not in COMPLETED:
                return "exists already: left as it is"
        else:
            return CREATED
        try:
            added = await _complete(cluster, wanted, release)
        except (StaleRecordError, NotFoundError):
            # Another writer has changed or deleted the object since it was read: look again.
            continue
        if added:
            return f"exists already: added {', '.join(added)}"
        return "exists already: left as it is"
    kind = wanted.manifest["kind"]
    raise StoreDownError(f"other writers keep changing the {kind} {wanted.name}: try again")


async def exists(cluster: Cluster, wanted: KubernetesObject) -> bool:
    """Return whether the object exists. Raises as `call` does.

    It asks by a dry run, because the account may create the object and not read it.
    """
    try:
        await cluster.call("POST", wanted.path(cluster), wanted.manifest, query={"dryRun": "All"})
    except StaleRecordError:
        return True
    return False


async def _complete(cluster: Cluster, wanted: KubernetesObject, release: str) -> list[str]:
    """Add what an existing object lacks, and return its names.

    That is the keys of a Secret, and this release's labels if release 0.2.0 has made the object.
    """
    path = wanted.path(cluster, wanted.name)
    found = await cluster.call("GET", path)
    metadata = adoption(found, release)
    missing = _missing_of(wanted, found)
    if missing:
        # The API refuses the write if the Secret has changed since the read. Without this a key
        # that another writer has just added would be replaced.
        metadata |= {"resourceVersion": found["metadata"]["resourceVersion"]}
    if not metadata:
        return []
    change = {"metadata": metadata} | ({"stringData": missing} if missing else {})
    await cluster.call("PATCH", path, change)
    return [*missing, *(["labels"] if "labels" in metadata else [])]


def _missing_of(wanted: KubernetesObject, found: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys that an existing Secret lacks, with their values.

    Raises SettingsError for a Secret that lacks some and cannot be changed.
    """
    existing = {
        key: base64.b64decode(value).decode(errors="replace")
        for key, value in (found.get("data") or {}).items()
    }
    missing = missing_values(wanted.manifest.get("stringData", {}), existing)
    if missing and found.get("immutable"):
        raise SettingsError(
            f"the Secret {wanted.name} lacks {', '.join(missing)} and is immutable: "
            "create it again with these keys"
        )
    return missing
