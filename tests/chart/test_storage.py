"""Requests for the nodes' disk, so that a full disk evicts the pods with a spool last."""

from typing import Any

import pytest

from tests.chart.kubernetes_schemas import KUBERNETES, check_all
from tests.chart.rendering import Variant, containers, notes, render, text_of

DISK = "ephemeral-storage"
MI = 1 << 20
UNITS = {"Ki": 1 << 10, "Mi": MI, "Gi": 1 << 30}
URL = ("data.source=url", "data.url=https://a.example.com/b", f"data.sha256={'0' * 64}")
INFERENCE = ("inference", "shipper")
# No container of these objects asks for disk.
WITHOUT = {"StatefulSet fraudops-postgresql"}


def requests(*settings: str) -> dict[str, int]:
    """Return the requests for disk in bytes, by object and container."""
    found = {}
    for label, _, container in containers(render(Variant(settings=settings))):
        quantity = container["resources"].get("requests", {}).get(DISK)
        if quantity:
            found[label] = int(quantity[:-2]) * UNITS[quantity[-2:]]
    return found


def inference(*settings: str) -> int:
    asked = requests(*settings)
    return sum(asked[f"Deployment fraudops-inference, container {n}"] for n in INFERENCE)


def limits_of_folders(*settings: str) -> int:
    """Return the bytes of the folders that the node's disk holds for an inference pod."""
    label = "Deployment fraudops-inference, container inference"
    objects = containers(render(Variant(settings=settings)))
    spec: dict[str, Any] = next(spec for name, spec, _ in objects if name == label)
    sizes = [volume.get("emptyDir", {}).get("sizeLimit", "0Mi") for volume in spec["volumes"]]
    return sum(int(size[:-2]) * UNITS[size[-2:]] for size in sizes)


@pytest.mark.parametrize(
    "settings",
    [
        (),
        (f"audit.spoolMaxBytes={(1 << 34) + 1}",),
        ("audit.spoolMaxBytes=1048576",),
        ("inference.state.size=20Gi",),
        ("inference.state.size=5000000Ki",),
        ("inference.state.type=ephemeral",),
        ("inference.spool.persistence.enabled=true",),
    ],
)
def test_an_inference_pod_requests_all_that_its_folders_may_take(settings: tuple[str, ...]) -> None:
    room = limits_of_folders(*settings)
    assert room >= 256 * MI
    assert room < inference(*settings) < room + 256 * MI


def test_every_container_but_those_of_postgresql_requests_disk() -> None:
    every = {label for label, _, _ in containers(render())}
    asked = set(requests())
    assert {label.partition(",")[0] for label in every - asked} == WITHOUT
    assert requests("ephemeralStorage.requests=false") == {}


def test_a_pod_that_fetches_data_requests_room_for_it() -> None:
    plain, fetching = requests(), requests(*URL, "data.volume.size=3Gi")
    for job in ("train", "validate"):
        label = f"CronJob fraudops-{job}, container"
        assert fetching[f"{label} fetch-data"] == fetching[f"{label} {job}"]
        assert fetching[f"{label} {job}"] == plain[f"{label} {job}"] + (3 << 30)
    promote = "CronJob fraudops-promote, container promote"
    assert fetching[promote] == plain[promote]


@pytest.mark.parametrize("kind", ["requests", "limits"])
def test_a_value_of_the_user_wins(kind: str) -> None:
    setting = f"mlflow.resources.{kind}.{DISK}=3Gi"
    chosen = {
        label: container["resources"]
        for label, _, container in containers(render(Variant(settings=(setting,))))
        if label.startswith("Deployment fraudops-mlflow")
    }
    assert len(chosen) == 2
    for resources in chosen.values():
        assert {name: amounts[DISK] for name, amounts in resources.items() if DISK in amounts} == {
            kind: "3Gi"
        }
        assert resources["requests"]["memory"] == "512Mi"
        assert resources["limits"]["memory"] == "1536Mi"


def test_without_requests_nothing_else_changes() -> None:
    def without_disk(line: str) -> bool:
        return DISK not in line

    text = text_of(Variant(settings=("ephemeralStorage.requests=false",)))
    check_all(KUBERNETES, text)
    assert DISK not in text
    # The names of the Jobs that run once have a hash of the whole spec.
    assert sorted(no_hash(text)) == sorted(filter(without_disk, no_hash(text_of(Variant()))))


def no_hash(text: str) -> list[str]:
    lines = text.splitlines()
    return [line for line in lines if not line.lstrip().startswith('name: "fraudops-')]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ((), ", and the volumes of these: PostgreSQL, MLflow."),
        (
            ("mlflow.artifacts.type=s3", "mlflow.artifacts.s3.destination=s3://a/b"),
            ", and the volumes of these: PostgreSQL.",
        ),
        (
            (
                *("postgresql.enabled=false", "postgresql.existingSecret=a"),
                *("mlflow.enabled=false", "mlflow.existingSecret=b"),
            ),
            ".",
        ),
        (
            ("inference.spool.persistence.enabled=true",),
            ", and the volumes of these: PostgreSQL, the audit spool, MLflow.",
        ),
    ],
)
def test_the_notes_name_the_volumes_that_outlive_the_release(
    settings: tuple[str, ...], kept: str
) -> None:
    lines = notes(*settings).splitlines()
    (line,) = [line for line in lines if line.startswith("Uninstalling keeps")]
    assert line.endswith(f"the Secrets, the serving record, its lock{kept}")
