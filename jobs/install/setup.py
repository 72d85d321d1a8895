"""Create the objects that outlive a release: Secrets, serving record, lock, data claim.

The chart runs this program. Its account may create objects, and may read and change only its own
Secrets and its own claim. An existing Secret gets the keys that it lacks. What release 0.2.0 has
made gets this release's labels. Nothing else of an existing object changes, so running the program
again changes nothing.
"""

import asyncio
import base64
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from fraudops.cluster.api import Cluster
from fraudops.errors import SettingsError
from fraudops.signing.keys import Purpose, new_key, parse_private_key, public_file
from jobs.install.objects import (
    CREATED,
    PASSWORD_BYTES,
    KubernetesObject,
    claim,
    database_values,
    ensure,
    exists,
    lock,
    record,
    secret,
)
from jobs.runner import notices, run

LOST = (
    "The serving record was deleted, and this one is empty. Pods that serve go on, and new pods "
    "wait for a promotion: restore the record from a backup, or promote a version."
)


async def create_missing(options: "SetupOptions") -> None:
    """Create the objects that do not exist yet, and add the missing keys of existing Secrets.

    Raises ForbiddenError, StoreDownError or UnknownWriteError; Kubernetes then repeats the Job.
    Raises SettingsError for a Secret that it cannot complete.
    """
    async with Cluster.connect(os.environ.get("FRAUDOPS_CLUSTER__NAMESPACE")) as cluster:
        # The record is made before the lock. So a lock without a record means that it was deleted.
        lost = options.lock is not None and await exists(cluster, options.lock)
        for each in options.objects(lost):
            done = await _ensure(cluster, each, options.release)
            if lost and done == CREATED and each.name == options.record_name:
                notices.print(LOST, markup=False)
        if options.public_keys:
            halves = await _public_halves(cluster, options.private_keys(), options.release)
            public = secret(options.public_keys, options.release, halves)
            await _ensure(cluster, public, options.release)


async def _ensure(cluster: Cluster, wanted: KubernetesObject, release: str) -> str:
    done = await ensure(cluster, wanted, release)
    notices.print(f"{wanted.manifest['kind']} {wanted.name} {done}", markup=False)
    return done


async def _public_halves(
    cluster: Cluster, private: Mapping[Purpose, tuple[str, str]], release: str
) -> dict[str, str]:
    """Make the private keys that are missing, and return the public half of each, by file name.

    A key is never replaced, because signatures of the old one must stay valid. Raises SettingsError
    for a key of an existing Secret that cannot be used.
    """
    halves = {}
    for purpose, (name, key) in private.items():
        await _ensure(cluster, secret(name, release, {key: new_key().pem().decode()}), release)
        # Read back: the Secret may be older than this run, and another run may have been faster.
        found = await cluster.call("GET", cluster.path("v1", "secrets", name))
        data = base64.b64decode(found["data"][key])
        public = parse_private_key(data, f"{key} of the Secret {name}").public
        halves[public_file(purpose, public)] = public.pem.decode()
    return halves


def _to_secret_key(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[str, str] | None:
    if value is None:
        return None
    name, sign, key = value.partition("=")
    if not (name and sign and key):
        raise SettingsError(f"{value}: write it as NAME=KEY, the Secret and the key in it")
    return name, key


@dataclass(frozen=True)
class SetupOptions:
    """The names of the objects to create; None leaves an object out."""

    release: str
    record_name: str | None
    lock_name: str | None
    admin_secret: str | None
    admin_key: str
    database_secret: str | None
    database_host: str | None
    data_claim: str | None
    data_size: str
    data_storage_class: str | None
    verdict_key: tuple[str, str] | None
    waiver_key: tuple[str, str] | None
    public_keys: str | None

    def private_keys(self) -> dict[Purpose, tuple[str, str]]:
        """Return the Secret and its key for each private key that is to be made."""
        keys: dict[Purpose, tuple[str, str]] = {}
        if self.verdict_key:
            keys["verdict"] = self.verdict_key
        if self.waiver_key:
            keys["waiver"] = self.waiver_key
        return keys

    @property
    def lock(self) -> KubernetesObject | None:
        return lock(self.lock_name, self.release) if self.lock_name else None

    def objects(self, lost: bool) -> Iterator[KubernetesObject]:
        """Yield the objects; `lost` means that the release had a serving record before."""
        if self.admin_secret:
            token = secrets.token_urlsafe(PASSWORD_BYTES)
            yield secret(self.admin_secret, self.release, {self.admin_key: token})
        if self.database_secret and self.database_host:
            yield secret(self.database_secret, self.release, database_values(self.database_host))
        if self.record_name:
            yield record(self.record_name, self.release, lost)
        if self.lock:
            yield self.lock
        if self.data_claim:
            yield claim(self.data_claim, self.release, self.data_size, self.data_storage_class)


@click.command(name="setup")
@click.option("--release", required=True, metavar="NAME", help="Prefix of the release's names.")
@click.option("--record", "record_name", metavar="NAME", help="ConfigMap of the serving record.")
@click.option("--lock", "lock_name", metavar="NAME", help="Lease of the promotion lock.")
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
    "--verdict-key",
    callback=_to_secret_key,
    metavar="NAME=KEY",
    help="Secret, and key in it, of the private key that signs verdicts.",
)
@click.option(
    "--waiver-key",
    callback=_to_secret_key,
    metavar="NAME=KEY",
    help="Secret, and key in it, of the private key that signs waivers.",
)
@click.option("--public-keys", metavar="NAME", help="Secret of the public halves of both.")
def command(**options: Any) -> None:
    """Create the objects that outlive the release and do not exist yet.

    Existing Secrets get the keys that they lack, and objects of release 0.2.0 new labels.
    """
    asyncio.run(create_missing(SetupOptions(**options)))


if __name__ == "__main__":
    run(command)
