"""The keys of a release for tests: Secrets, CronJobs and a serving record on a small API server."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fraudops.promotion.serving_record import (
    CONFIG_MAP_KEY,
    EMPTY,
    ServingRecord,
    config_map_name,
    encode,
)
from fraudops.signing.keys import PrivateKey, new_key, parse_private_key, public_file
from tests.support.commands import CommandResult
from tests.support.kubernetes_secrets import StoredObjects

KeysCommand = Callable[..., CommandResult]


class KeysOfRelease:
    """The Secrets of the release `shop`, and the command with its kubeconfig."""

    def __init__(self, stored: StoredObjects, run_keys: KeysCommand, kubeconfig: Path) -> None:
        self.stored, self._run, self._kubeconfig = stored, run_keys, kubeconfig
        self.verdict, self.waiver = new_key(), new_key()
        self.record(EMPTY)
        self.cronjob("train")
        self.cronjob("validate", "verdict-key")
        self.cronjob("promote", "waiver-key", "public-keys")
        self.secret("verdict-key", {"key.pem": self.verdict.pem().decode()})
        self.secret("waiver-key", {"key.pem": self.waiver.pem().decode()})
        self.secret(
            "public-keys",
            {
                public_file("verdict", self.verdict.public): self.verdict.public.pem.decode(),
                public_file("waiver", self.waiver.public): self.waiver.public.pem.decode(),
            },
        )

    def run(self, *arguments: str) -> CommandResult:
        place = {"KUBECONFIG": str(self._kubeconfig), "FRAUDOPS_CLUSTER__NAMESPACE": "default"}
        return self._run(*arguments, "--on-cluster", **place)

    def cronjob(self, template: str, *volumes: str, prefix: str = "shop") -> None:
        """Store the part of a CronJob that names its Secrets."""
        pod: dict[str, Any] = {"volumes": [{"name": "tmp", "emptyDir": {}}]}
        for name in volumes:
            secret: dict[str, Any] = {"secretName": f"{prefix}-{name}"}
            if name != "public-keys":
                secret["items"] = [{"key": "key.pem", "path": "key.pem"}]
            pod["volumes"].append({"name": name, "secret": secret})
        manifest = {
            "metadata": {"name": f"shop-{template}"},
            "spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}},
        }
        self.stored.objects.pop(f"cronjobs/shop-{template}", None)
        # `find_release` knows a release by its template `train`; the server ignores selectors.
        if template == "train":
            self.stored.store("cronjobs/shop-train", manifest)
        else:
            self.stored.objects[f"cronjobs/shop-{template}"] = manifest

    def record(self, record: ServingRecord) -> None:
        """Store the serving record, which the setup Job makes."""
        data = {CONFIG_MAP_KEY: encode(record).decode()}
        manifest = {"metadata": {"name": config_map_name("shop")}, "data": data}
        self.stored.store(f"configmaps/{config_map_name('shop')}", manifest)

    def secret(self, name: str, values: dict[str, str]) -> None:
        manifest = {"metadata": {"name": f"shop-{name}"}, "stringData": values}
        self.stored.store(f"secrets/shop-{name}", manifest)

    def private(self, name: str) -> PrivateKey:
        return parse_private_key(self.stored.values(f"shop-{name}")["key.pem"].encode(), name)
