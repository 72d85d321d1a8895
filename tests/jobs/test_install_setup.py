"""The setup Job against a small server with the calls of the Kubernetes API that it makes."""

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from fraudops.cluster.kept import is_marked
from fraudops.signing.keys import PrivateKey, new_key, parse_private_key, public_file
from jobs.install.setup import command
from tests.support.commands import CommandResult, call
from tests.support.kubernetes_secrets import StoredObjects, serve_objects, write_kubeconfig
from tests.support.processes import free_port

OPTIONS = (
    *("--release", "fraudops", "--record", "serving", "--lock", "promotion"),
    *("--admin-secret", "admin", "--database-secret", "database"),
)
SIGNING = (
    *("--verdict-key", "verdict-key=key.pem", "--waiver-key", "waiver-key=private"),
    *("--public-keys", "public-keys"),
)
KEYS = {"url", "mlflow-url", "admin-url", "password"}


class Setup:
    """The program, and the objects of its API server."""

    def __init__(self, stored: StoredObjects, kubeconfig: Path) -> None:
        self.stored, self.kubeconfig = stored, kubeconfig

    @property
    def environment(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig), "FRAUDOPS_CLUSTER__NAMESPACE": "default"}

    def run(self, *more: str) -> CommandResult:
        options = (*OPTIONS, "--database-host", "db", *more)
        return call("setup", command, *options, **self.environment)

    def has_secret(self, name: str, values: dict[str, str], **more: Any) -> None:
        manifest = {"kind": "Secret", "metadata": {"name": name}, "stringData": values} | more
        self.stored.store(f"secrets/{name}", manifest)


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    with serve_objects(tmp_path) as (stored, kubeconfig):
        yield Setup(stored, kubeconfig)


def test_the_first_run_creates_everything_and_the_second_changes_nothing(setup: Setup) -> None:
    """The first is a process of its own, as the chart starts it."""
    program = [sys.executable, "-m", "jobs.install.setup", *OPTIONS, "--database-host", "db"]
    subprocess.run(program, env=setup.environment, check=True, timeout=60)
    assert setup.stored.objects.keys() == {
        "configmaps/serving",
        "leases/promotion",
        "secrets/admin",
        "secrets/database",
    }
    before = dict(setup.stored.objects)
    again = setup.run()
    assert (again.returncode, setup.stored.objects, setup.stored.patches) == (0, before, [])
    assert "Secret database exists already: left as it is" in again.stderr


def test_the_record_of_a_first_installation_has_the_mark(setup: Setup) -> None:
    assert setup.run().returncode == 0
    assert is_marked(setup.stored.objects["configmaps/serving"])


def test_a_record_that_was_deleted_is_made_again_without_the_mark(setup: Setup) -> None:
    assert setup.run().returncode == 0
    del setup.stored.objects["configmaps/serving"]
    again = setup.run()
    assert again.returncode == 0
    assert "promote a version" in again.stderr
    assert not is_marked(setup.stored.objects["configmaps/serving"])
    assert "promote a version" not in setup.run().stderr


def test_the_record_has_the_mark_after_a_first_run_that_ended_early(setup: Setup) -> None:
    assert setup.run().returncode == 0
    for made in ("configmaps/serving", "leases/promotion"):
        del setup.stored.objects[made]
    assert setup.run().returncode == 0
    assert is_marked(setup.stored.objects["configmaps/serving"])


def test_what_the_earlier_release_has_made_gets_new_labels_and_keeps_its_content(
    setup: Setup,
) -> None:
    labels = {"app.kubernetes.io/name": "fraudops", "app.kubernetes.io/instance": "fraudops"}
    earlier = {"labels": labels, "annotations": {"of": "the site"}}
    setup.has_secret("admin", {"token": "kept"}, metadata={"name": "admin"} | earlier)
    claim = {"metadata": {"name": "data"} | earlier, "spec": {"size": "kept"}}
    setup.stored.store("persistentvolumeclaims/data", claim)
    record = setup.stored.store("configmaps/serving", {"metadata": {"name": "serving"} | earlier})
    done = setup.run("--data-claim", "data")
    assert done.returncode == 0, done.stderr
    assert "Secret admin exists already: added labels" in done.stderr
    for path in ("secrets/admin", "persistentvolumeclaims/data"):
        metadata = setup.stored.objects[path]["metadata"]
        assert metadata["labels"] == {
            "app.kubernetes.io/name": "fraudops",
            "app.kubernetes.io/managed-by": "fraudops-setup",
            "fraudops.io/release": "fraudops",
        }
        assert metadata["annotations"]["of"] == "the site"
        assert "Prune=false" in metadata["annotations"]["argocd.argoproj.io/sync-options"]
    assert setup.stored.values("admin") == {"token": "kept"}
    assert setup.stored.objects["persistentvolumeclaims/data"]["spec"] == {"size": "kept"}
    # The right to change the record is the right to promote. The reconciler has it.
    assert setup.stored.objects["configmaps/serving"] == record
    patches = len(setup.stored.patches)
    assert setup.run("--data-claim", "data").returncode == 0
    assert len(setup.stored.patches) == patches


@pytest.mark.parametrize("lacking", sorted(KEYS))
def test_a_secret_gets_the_key_that_it_lacks_and_keeps_the_others(
    setup: Setup, lacking: str
) -> None:
    admin = "postgresql://postgres:by%2Fhand@db:5432/postgres"
    values = {"url": "u", "mlflow-url": "m", "admin-url": admin, "password": "by/hand"}
    present = {key: value for key, value in values.items() if key != lacking}
    setup.has_secret("database", present | {"more": "of another program"})
    done = setup.run()
    assert done.returncode == 0, done.stderr
    assert f"Secret database exists already: added {lacking}" in done.stderr
    found = setup.stored.values("database")
    assert found.keys() == KEYS | {"more"}
    assert present.items() <= found.items()
    assert unquote(urlsplit(found["admin-url"]).password or "") == found["password"]
    assert found[lacking] not in done.stderr


def test_an_empty_secret_gets_every_key(setup: Setup) -> None:
    setup.stored.store("secrets/admin", {"kind": "Secret", "metadata": {"name": "admin"}})
    assert setup.run().returncode == 0
    assert len(setup.stored.values("admin")["token"]) > 20


def test_a_key_that_another_writer_adds_meanwhile_is_not_replaced(setup: Setup) -> None:
    setup.has_secret("admin", {"another": "x"})

    def add_it_first() -> None:
        setup.stored.before_write = lambda: None
        setup.has_secret("admin", {"another": "x", "token": "of another writer"})

    setup.stored.before_write = add_it_first
    assert setup.run().returncode == 0
    assert setup.stored.values("admin")["token"] == "of another writer"


def test_an_immutable_secret_that_lacks_a_key_is_named(setup: Setup) -> None:
    setup.has_secret("admin", {"another": "x"}, immutable=True)
    done = setup.run()
    assert done.returncode == 64
    assert "the Secret admin lacks token and is immutable: create it again" in done.stderr


def test_a_malformed_admin_url_is_named_and_not_quoted(setup: Setup) -> None:
    setup.has_secret("database", {"admin-url": "postgresql://postgres:pa/ss@db:5432/postgres"})
    done = setup.run()
    assert done.returncode == 64
    assert "admin-url is not a valid URL" in done.stderr
    assert "pa/ss" not in done.stderr


def test_each_signing_key_gets_its_public_half_and_is_never_replaced(setup: Setup) -> None:
    assert setup.run(*SIGNING).returncode == 0
    verdict = private_half(setup, "verdict-key", "key.pem")
    waiver = private_half(setup, "waiver-key", "private")
    assert setup.stored.values("public-keys") == {
        public_file("verdict", verdict.public): verdict.public.pem.decode(),
        public_file("waiver", waiver.public): waiver.public.pem.decode(),
    }
    assert verdict.public.id != waiver.public.id
    before = dict(setup.stored.objects)
    again = setup.run(*SIGNING)
    assert (again.returncode, setup.stored.objects, setup.stored.patches) == (0, before, [])


def test_the_public_half_of_an_older_private_key_is_added_to_the_others(setup: Setup) -> None:
    key = new_key()
    setup.has_secret("verdict-key", {"key.pem": key.pem().decode()})
    setup.has_secret("public-keys", {"verdict-old.pem": "an older key"})
    done = setup.run(*SIGNING)
    assert done.returncode == 0, done.stderr
    assert private_half(setup, "verdict-key", "key.pem").public == key.public
    found = setup.stored.values("public-keys")
    assert found["verdict-old.pem"] == "an older key"
    assert found[public_file("verdict", key.public)] == key.public.pem.decode()
    assert "PRIVATE KEY" not in done.stderr


def test_a_private_key_that_cannot_be_used_is_named_and_not_quoted(setup: Setup) -> None:
    setup.has_secret("verdict-key", {"key.pem": "correct-horse"})
    done = setup.run(*SIGNING)
    assert done.returncode == 64
    assert "the private key key.pem of the Secret verdict-key cannot be used" in done.stderr
    assert "correct-horse" not in done.stderr
    assert "secrets/public-keys" not in setup.stored.objects


def private_half(setup: Setup, name: str, key: str) -> PrivateKey:
    return parse_private_key(setup.stored.values(name)[key].encode(), name)


def test_an_api_server_that_is_away_ends_the_program_with_75(tmp_path: Path) -> None:
    done = Setup(StoredObjects(), write_kubeconfig(tmp_path, away())).run()
    assert done.returncode == 75
    assert "error: the Kubernetes API does not answer" in done.stderr


@pytest.mark.parametrize("damage", ["no YAML", "empty file", "bad certificate"])
def test_a_damaged_kubeconfig_ends_the_program_with_75(tmp_path: Path, damage: str) -> None:
    bad = base64.b64encode(b"not a certificate").decode()
    kubeconfig = write_kubeconfig(tmp_path, away(), certificate_authority_data=bad)
    if damage != "bad certificate":
        kubeconfig.write_text("" if damage == "empty file" else "{")
    done = Setup(StoredObjects(), kubeconfig).run()
    assert done.returncode == 75, done.stderr
    assert "check the file that KUBECONFIG names" in done.stderr
    assert "Traceback" not in done.stderr


def away() -> str:
    return f"https://127.0.0.1:{free_port()}"
