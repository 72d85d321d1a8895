"""What values add to the pods of a component, and where each value must arrive."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.chart.rendering import Manifest, Variant, pods

MARK = "marker"
JOBS = (
    *("train", "validate", "promote", "pipeline", "score", "labels", "drift", "retention"),
    *("reconcile", "setup", "migrate", "bootstrap", "test"),
)
# A sample of each value. Where it arrives, the object has the word MARK.
ON_POD: Mapping[str, Any] = {
    "podLabels": {"example.com/team": MARK},
    "podAnnotations": {"example.com/team": MARK},
    "extraVolumes": [{"name": MARK, "emptyDir": {"sizeLimit": "1Mi"}}],
    "extraInitContainers": [
        {"name": MARK, "image": "proxy:1", "restartPolicy": "Always", "ports": []}
    ],
    "podSecurityContext": {"seLinuxOptions": {"level": MARK}},
    "priorityClassName": MARK,
    "nodeSelector": {"example.com/pool": MARK},
    "tolerations": [{"key": MARK, "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "podAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"topologyKey": MARK, "labelSelector": {"matchLabels": {"a": "b"}}}
            ]
        }
    },
}
ON_CONTAINER: Mapping[str, Any] = {
    "extraEnv": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": MARK, "key": "a"}}}],
    "extraEnvFrom": [{"secretRef": {"name": MARK, "optional": True}, "prefix": "P_"}],
    "extraVolumeMounts": [{"name": "a", "mountPath": f"/{MARK}", "readOnly": True}],
    "containerSecurityContext": {"seLinuxOptions": {"level": MARK}},
}
LONG_RUNNING = {"extraContainers": [{"name": MARK, "image": "proxy:1", "args": ["--port", "1"]}]}
# The mounts need a volume.
VOLUME = {"extraVolumes": [{"name": "a", "emptyDir": {"sizeLimit": "1Mi"}}]}
# Every container and every Job is rendered with these.
BASE: Mapping[str, Any] = {
    "environment": "development",
    "bootstrap": {"enabled": True},
    "data": {"source": "url", "url": "https://example.com/a.csv", "sha256": "0" * 64},
}
SCORE: Mapping[str, Any] = {"data": {"source": "volume"}}


@dataclass(frozen=True)
class Extension:
    """One value of one component, with the components or containers that it must reach."""

    path: str
    values: str
    reaches: frozenset[str]
    containers: bool

    def __str__(self) -> str:
        return self.path


def nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    return dict(value)


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged(result[key], value) if both else value
    return result


def extensions() -> Iterator[Extension]:
    components = {"inference": {"inference"}, "mlflow": {"mlflow"}, "postgresql": {"postgresql"}}
    for path, reached in {**components, "jobs": set(JOBS)}.items():
        extra = LONG_RUNNING if path != "jobs" else {}
        for name, sample in {**ON_POD, **extra}.items():
            yield _extension(path, name, sample, reached)
        for name, sample in ON_CONTAINER.items():
            yield _extension(path, name, sample, reached, containers=True)
    for name, sample in ON_CONTAINER.items():
        yield _extension("inference.shipper", name, sample, {"shipper"}, containers=True)
    for job in JOBS:
        path = "bootstrap.pod" if job == "bootstrap" else f"jobs.{job}.pod"
        yield _extension(path, "nodeSelector", ON_POD["nodeSelector"], {job})
    for name, sample in ON_POD.items():
        yield _extension("jobs.train.pod", name, sample, {"train"})
    for name, sample in ON_CONTAINER.items():
        yield _extension("jobs.setup.pod", name, sample, {"setup"}, containers=True)
    for job in ("train", "validate", "labels", "retention", "migrate", "test"):
        yield _extension(f"jobs.{job}.pod", "serviceAccountName", MARK, {job})


def _extension(
    path: str, name: str, sample: Any, reached: set[str], containers: bool = False
) -> Extension:
    parts = [BASE, nested(f"{path}.{name}", sample)]
    if name == "extraVolumeMounts":
        parts.append(nested(path.removesuffix(".shipper"), VOLUME))
    if path.startswith(("jobs.score", "jobs.labels")) or (path == "jobs" and name == "podLabels"):
        parts.append(SCORE)
    values = json.dumps(merged(*parts))
    return Extension(f"{path}.{name}", values, frozenset(reached), containers)


EXTENSIONS = list(extensions())


def variant(extension: Extension) -> Variant:
    return Variant(values=extension.values)


def marked_pods(manifests: list[Manifest]) -> set[str]:
    """Return the components whose pods have the mark."""
    return {
        template["metadata"]["labels"]["app.kubernetes.io/component"]
        for _, template in pods(manifests)
        if MARK in json.dumps(template)
    }


def marked_containers(manifests: list[Manifest]) -> tuple[set[str], set[str]]:
    """Return the containers with the mark and those without, by component, or `shipper`."""
    found: tuple[set[str], set[str]] = (set(), set())
    for _, template in pods(manifests):
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        spec = template["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            name = "shipper" if container["name"] == "shipper" else component
            found[0 if MARK in json.dumps(container) else 1].add(name)
    return found
