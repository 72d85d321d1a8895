from urllib.parse import unquote, urlsplit

from click.testing import CliRunner

from jobs.install.objects import claim, database_values, record, secret
from jobs.install.setup import command

LABELS = {"app.kubernetes.io/instance": "fraudops"}


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
    made = record("fraudops-serving", LABELS)
    assert (made.resource, made.name) == ("configmaps", "fraudops-serving")
    assert "data" not in made.manifest


def test_every_object_carries_the_releases_labels() -> None:
    for made in (
        secret("a", LABELS, {"token": "x"}),
        record("b", LABELS),
        claim("c", LABELS, "5Gi", None),
    ):
        assert made.manifest["metadata"]["labels"] == {
            "app.kubernetes.io/name": "fraudops",
            **LABELS,
        }


def test_a_claim_names_a_storage_class_only_when_it_is_given_one() -> None:
    assert "storageClassName" not in claim("c", LABELS, "5Gi", None).manifest["spec"]
    spec = claim("c", LABELS, "5Gi", "fast").manifest["spec"]
    assert (spec["storageClassName"], spec["resources"]["requests"]["storage"]) == ("fast", "5Gi")


def test_no_call_reaches_the_cluster_when_no_object_is_needed() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert result.exit_code == 0
    assert "do not exist yet" in result.output
