"""PostgreSQL's Secret as files, and the files of TLS: who mounts what, and where."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.rendering import Manifest, Variant, containers, pods, refusal, render

VARIABLES = ("DATABASE_URL", "MLFLOW_BACKEND_STORE_URI", "DATABASE_ADMIN_URL")
FOLDER, TLS_FOLDER = "/secrets/database", "/secrets/postgresql-tls"
EVERY_JOB = ("environment=development", "bootstrap.enabled=true", "data.source=volume")
AS_FILE = ("postgresql.secretAs=file",)
OWN = ("postgresql.enabled=false", "postgresql.existingSecret=db")
TLS = (*OWN, "postgresql.tls.existingSecret=pg-tls", "postgresql.tls.mode=verify-full")
CLIENT = (*TLS, "postgresql.tls.certKey=crt", "postgresql.tls.keyKey=key")
CERTIFICATES = {
    "PGSSLROOTCERT": f"{TLS_FOLDER}/ca.crt",
    "PGSSLCERT": f"{TLS_FOLDER}/tls.crt",
    "PGSSLKEY": f"{TLS_FOLDER}/tls.key",
}


def rendered(*settings: str, upgrade: bool = False) -> list[Manifest]:
    return render(Variant(settings=(*EVERY_JOB, *settings), upgrade=upgrade))


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container.get("env", [])}


def readers(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any], set[str]]]:
    """Yield label and container, and which variables of the database Secret it has."""
    for label, _, container in containers(manifests):
        yield label, container, set(VARIABLES) & variables(container).keys()


def test_a_container_has_the_same_variables_as_files() -> None:
    """The admission policy of promotions and the table of keys hold names, so none may be new."""
    before = {label: variables(found).keys() for label, found, _ in readers(rendered())}
    after = {label: variables(found).keys() for label, found, _ in readers(rendered(*AS_FILE))}
    # The Jobs that run once are named by their content.
    assert sorted(map(sorted, after.values())) == sorted(map(sorted, before.values()))
    assert after.keys() & before.keys() > {"Deployment fraudops-inference, container shipper"}


def mounted_files(template: dict[str, Any]) -> dict[str, str]:
    """Return the files of the pod's volume, with their keys in the Secret."""
    (volume,) = [found for found in template["spec"]["volumes"] if found["name"] == "database"]
    # The group may read it, other users may not.
    assert volume["projected"]["defaultMode"] == 0o440
    return {
        f"file:{FOLDER}/{item['path']}": item["key"]
        for source in volume["projected"]["sources"]
        for item in source["secret"]["items"]
    }


@pytest.mark.parametrize("upgrade", [False, True])
def test_a_pod_mounts_exactly_the_urls_that_its_containers_read(upgrade: bool) -> None:
    seen = 0
    for owner, template in pods(rendered(*AS_FILE, upgrade=upgrade)):
        spec, read = template["spec"], set()
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            found = variables(container)
            files = {found[name] for name in VARIABLES if name in found}
            (*mounts,) = [m for m in container["volumeMounts"] if m["mountPath"] == FOLDER]
            if not files:
                assert mounts == [], f"{owner}, {container['name']}"
                continue
            # The kubelet does not update a file of a subPath.
            assert mounts == [{"name": "database", "mountPath": FOLDER, "readOnly": True}], owner
            # Else one container would see a URL that only another one may read.
            assert not read or read == files, owner
            read, seen = files, seen + 1
        names = [volume["name"] for volume in spec.get("volumes", [])]
        assert ("database" in names) == bool(read), owner
        if read:
            assert mounted_files(template).keys() == read, owner
    assert seen >= 12 + upgrade


def test_the_files_are_the_keys_of_the_values() -> None:
    keys = ("postgresql.secretKeys.url=uri", "postgresql.secretKeys.mlflowUrl=other")
    by_component = {
        template["metadata"]["labels"]["app.kubernetes.io/component"]: template
        for _, template in pods(rendered(*OWN, *keys, *AS_FILE))
    }
    assert mounted_files(by_component["migrate"]) == {
        f"file:{FOLDER}/url": "uri",
        f"file:{FOLDER}/mlflow-url": "other",
        f"file:{FOLDER}/admin-url": "admin-url",
    }
    assert mounted_files(by_component["drift"]) == {f"file:{FOLDER}/url": "uri"}


def optional_files(*settings: str, job: str, upgrade: bool = False) -> set[str]:
    """Return the files without which a pod of the Job starts."""
    manifests = rendered(*AS_FILE, *settings, upgrade=upgrade)
    (template,) = [found for owner, found in pods(manifests) if job in owner]
    (volume,) = [found for found in template["spec"]["volumes"] if found["name"] == "database"]
    return {
        item["path"]
        for source in volume["projected"]["sources"]
        if source["secret"].get("optional")
        for item in source["secret"]["items"]
    }


def test_only_what_may_be_missing_is_optional() -> None:
    # A pod waits for a file that is not optional, so migrate waits for the setup Job.
    assert optional_files(job="fraudops-migrate-") == {"admin-url"}
    assert optional_files(job="fraudops-drift") == set()
    # Before an upgrade there may be no Secret yet.
    before = optional_files(job="fraudops-migrate-before-upgrade", upgrade=True)
    assert before == {"admin-url", "url", "mlflow-url"}
    mlflow = ("mlflow.enabled=false", "mlflow.url=https://mlflow.example.com")
    assert optional_files(*mlflow, job="before-upgrade", upgrade=True) == {"admin-url", "url"}


@pytest.mark.parametrize("mode", [(), AS_FILE])
def test_exactly_the_clients_of_postgresql_have_the_files_of_tls(mode: tuple[str, ...]) -> None:
    for label, container, read in readers(rendered(*CLIENT, *mode)):
        found = variables(container)
        mounted = TLS_FOLDER in {mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == bool(read), label
        assert (found.get("PGSSLMODE") == "verify-full") == bool(read), label
        assert (found.items() >= CERTIFICATES.items()) == bool(read), label
    for owner, template in pods(rendered(*CLIENT, *mode)):
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        mounting = TLS_FOLDER in json.dumps(template)
        assert ("postgresql-tls" in volumes) == mounting, owner
        if mounting:
            assert volumes["postgresql-tls"]["secret"] == {
                "secretName": "pg-tls",
                "defaultMode": 0o440,
                "items": [
                    {"key": "crt", "path": "tls.crt"},
                    {"key": "key", "path": "tls.key"},
                    {"key": "ca.crt", "path": "ca.crt"},
                ],
            }


def test_the_ca_of_postgresql_replaces_that_of_the_bundle_and_is_there_once() -> None:
    for label, container, read in readers(rendered(*TLS, "caBundle.configMap=company")):
        values = [e["value"] for e in container.get("env", []) if e["name"] == "PGSSLROOTCERT"]
        bundle = "/etc/ssl/fraudops/ca.crt"
        assert values == [CERTIFICATES["PGSSLROOTCERT"] if read else bundle], label


def test_tls_that_cannot_work_is_refused() -> None:
    assert "postgresql.tls is for your own" in refusal("postgresql.tls.mode=require")
    assert "postgresql.tls is for your own" in refusal("postgresql.tls.existingSecret=a")
    for half in ("certKey", "keyKey"):
        assert "Set certKey and keyKey, or none" in refusal(*TLS, f"postgresql.tls.{half}=a")
    keys = ("postgresql.tls.certKey=a", "postgresql.tls.keyKey=b")
    assert "name it in postgresql.tls.existingSecret" in refusal(*OWN, *keys)
    assert "no key to mount" in refusal(*TLS, "postgresql.tls.caKey=")
    assert "/postgresql/tls/mode" in refusal(*TLS, "postgresql.tls.mode=prefer")
