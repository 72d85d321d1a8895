"""The signing keys of a release, which are Secrets, through the caller's own rights."""

import base64
from dataclasses import dataclass
from typing import Any

from fraudops.cluster.api import Cluster, NotFoundError
from fraudops.errors import SettingsError
from fraudops.signing.key_list import KeyEntry, entries, public_keys
from fraudops.signing.keys import (
    PublicKey,
    PublicKeys,
    Purpose,
    new_key,
    parse_private_key,
    parse_public_key,
    public_file,
)

Object = dict[str, Any]
# The CronJob whose pods mount the private key of each purpose, and the name of the volume.
MOUNTED: dict[Purpose, tuple[str, str]] = {
    "verdict": ("validate", "verdict-key"),
    "waiver": ("promote", "waiver-key"),
}
PUBLIC = ("promote", "public-keys")


@dataclass(frozen=True)
class PrivateSecret:
    """The Secret of a private key, and the key in it."""

    name: str
    key: str


@dataclass(frozen=True)
class ClusterKeys:
    """The Secrets of one release. A purpose that the release forbids has no private Secret."""

    cluster: Cluster
    release: str
    private: dict[Purpose, PrivateSecret]
    public: str

    @classmethod
    async def of(cls, cluster: Cluster, release: str) -> "ClusterKeys":
        """Find the Secrets in the volumes of the release's CronJobs.

        Raises SettingsError if the release is older than its keys.
        """
        private: dict[Purpose, PrivateSecret] = {}
        for purpose, (template, volume) in MOUNTED.items():
            found = await _mounted(cluster, f"{release}-{template}", volume)
            if found:
                private[purpose] = PrivateSecret(found["secretName"], found["items"][0]["key"])
        public = await _mounted(cluster, f"{release}-{PUBLIC[0]}", PUBLIC[1])
        if public is None:
            raise SettingsError(
                f"release {release} has no signing keys: upgrade it with this chart's release"
            )
        return cls(cluster, release, private, public["secretName"])

    async def list(self) -> list[KeyEntry]:
        """Return the keys of the release. Needs the right to read its Secrets."""
        signing: dict[Purpose, PublicKey] = {}
        for purpose, secret in self.private.items():
            data = (await self._values(secret.name)).get(secret.key)
            if data:
                source = f"{secret.key} of the Secret {secret.name}"
                signing[purpose] = parse_private_key(data, source).public
        return entries(await self._public_keys(), signing)

    async def trusted(self) -> PublicKeys:
        """Return the public keys that are valid now."""
        return public_keys(await self._public_keys())

    async def rotate(self, purpose: Purpose) -> PublicKey:
        """Put a new private key into its Secret. The old public key stays valid.

        Raises SettingsError for a Secret that is not the chart's own.
        """
        secret = self.private.get(purpose)
        if secret is None:
            raise SettingsError(f"release {self.release} forbids every {purpose} (signing.waivers)")
        what = "Add the public key first, then replace the private one"
        self._refuse_foreign(secret.name, f"{self.release}-{purpose}-key", f"{purpose}Key", what)
        self._refuse_foreign(self.public, f"{self.release}-public-keys", "publicKeys", what)
        key = new_key()
        # The public half first: every signature of the new key can be verified from its first use.
        half = {public_file(purpose, key.public): key.public.pem.decode()}
        await self._patch(self.public, {"stringData": half})
        await self._patch(secret.name, {"stringData": {secret.key: key.pem().decode()}})
        return key.public

    async def retire(self, entry: KeyEntry) -> None:
        """Remove a public key. What it has signed is refused from then on."""
        what = f"Remove {entry.file} there"
        self._refuse_foreign(self.public, f"{self.release}-public-keys", "publicKeys", what)
        await self._patch(self.public, {"data": {entry.file: None}})

    async def _public_keys(self) -> dict[str, PublicKey]:
        return {
            name: parse_public_key(data, f"{name} of the Secret {self.public}")
            for name, data in (await self._values(self.public)).items()
            if name.startswith(("verdict", "waiver")) and name.endswith(".pem")
        }

    def _refuse_foreign(self, name: str, own: str, value: str, what: str) -> None:
        # A Secret of the operator is written by the tool that keeps it, which would write the old
        # key again.
        if name != own:
            raise SettingsError(
                f"the Secret {name} is your own (signing.{value}.existingSecret): change it where "
                f"you keep it. {what}"
            )

    async def _values(self, name: str) -> dict[str, bytes]:
        try:
            found = await self.cluster.call("GET", self.cluster.path("v1", "secrets", name))
        except NotFoundError as error:
            raise SettingsError(
                f"the Secret {name} does not exist: delete the setup Job of release {self.release} "
                "and run `helm upgrade`, which makes it"
            ) from error
        return {key: base64.b64decode(text) for key, text in (found.get("data") or {}).items()}

    async def _patch(self, name: str, change: Object) -> None:
        await self.cluster.call("PATCH", self.cluster.path("v1", "secrets", name), change)


async def _mounted(cluster: Cluster, cronjob: str, volume: str) -> Object | None:
    found = await cluster.call("GET", cluster.path("batch/v1", "cronjobs", cronjob))
    volumes = found["spec"]["jobTemplate"]["spec"]["template"]["spec"].get("volumes", [])
    return next((each["secret"] for each in volumes if each["name"] == volume), None)
