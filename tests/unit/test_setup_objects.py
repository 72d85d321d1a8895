"""Objects that the setup Job makes, and what it changes of those of the earlier release."""

from urllib.parse import unquote, urlsplit

import pytest
from click.testing import CliRunner

from fraudops.cluster.kept import adoption
from jobs.install.objects import claim, database_values, lock, record, secret
from jobs.install.setup import command

RELEASE = "fraudops"
EARLIER = {"app.kubernetes.io/name": "fraudops", "app.kubernetes.io/instance": RELEASE}


def test_every_database_has_a_role_and_a_password_of_its_own() -> None:
    values = database_values("db")
    parts = {key: urlsplit(values[key]) for key in ("url", "mlflow-url", "admin-url")}
    assert {
        key: (part.username, part.path, part.hostname, part.port) for key, part in parts.items()
    } == {
        "url": ("fraudops", "/fraudops", "db", 5432),
        "mlflow-url": ("mlflow", "/mlflow", "db", 5432),
        "admin-url": ("postgres", "/postgres", "db", 5432),
    }
    assert len({part.password for part in parts.values()}) == 3
    assert unquote(parts["admin-url"].password or "") == values["password"]


def test_no_two_secrets_are_alike() -> None:
    assert database_values("db") != database_values("db")


def test_the_record_is_made_empty() -> None:
    made = record("fraudops-serving", RELEASE)
    assert (made.resource, made.name) == ("configmaps", "fraudops-serving")
    assert "data" not in made.manifest
    assert made.manifest["metadata"]["annotations"]["fraudops.io/never-named"] == "true"


def test_no_gitops_tool_deletes_what_the_setup_makes() -> None:
    for made in (
        secret("a", RELEASE, {"token": "x"}),
        record("b", RELEASE, lost=True),
        lock("c", RELEASE),
        claim("d", RELEASE, "5Gi", None),
    ):
        # Argo CD up to 2.14 deletes what has the label `app.kubernetes.io/instance`.
        assert made.manifest["metadata"] == {
            "name": made.name,
            "labels": {
                "app.kubernetes.io/name": "fraudops",
                "app.kubernetes.io/managed-by": "fraudops-setup",
                "fraudops.io/release": "fraudops",
            },
            "annotations": {
                "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
                "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
            },
        }


def test_the_lock_is_made_without_a_holder() -> None:
    made = lock("fraudops-promotion", RELEASE)
    assert (made.resource, made.manifest["kind"]) == ("leases", "Lease")
    assert made.manifest["apiVersion"] == "coordination.k8s.io/v1"
    assert "spec" not in made.manifest


def test_an_object_of_the_earlier_release_gets_the_labels_of_a_new_one() -> None:
    found = {"metadata": {"name": "a", "labels": EARLIER, "resourceVersion": "7"}}
    wanted = lock("a", RELEASE).manifest["metadata"]
    assert adoption(found, RELEASE) == {
        "labels": wanted["labels"] | {"app.kubernetes.io/instance": None},
        "annotations": wanted["annotations"],
        "resourceVersion": "7",
    }


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {"app.kubernetes.io/instance": RELEASE},
        EARLIER | {"app.kubernetes.io/instance": "another"},
        EARLIER | {"app.kubernetes.io/managed-by": "Helm"},
        record("a", RELEASE).manifest["metadata"]["labels"],
    ],
    ids=["no labels", "of the site", "another release", "of Helm", "new"],
)
def test_the_labels_of_every_other_object_stay(labels: dict[str, str] | None) -> None:
    found = {"metadata": {"name": "a", "labels": labels, "resourceVersion": "7"}}
    assert adoption(found, RELEASE) == {}


def test_a_claim_names_a_storage_class_only_when_it_is_given_one() -> None:
    assert "storageClassName" not in claim("c", RELEASE, "5Gi", None).manifest["spec"]
    spec = claim("c", RELEASE, "5Gi", "fast").manifest["spec"]
    assert (spec["storageClassName"], spec["resources"]["requests"]["storage"]) == ("fast", "5Gi")


def test_no_call_reaches_the_cluster_when_no_object_is_needed() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "do not exist yet" in result.output
