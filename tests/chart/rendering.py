"""Render the chart with Helm, and iterate over the objects, pods and containers."""

import functools
import json
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "fraudops"
NAMESPACE = "fraud"
HOW_TO_GET = {
    "helm": "install Helm 4 (https://helm.sh/docs/intro/install)",
    "helm3": "put a Helm 3.18 or newer on PATH under the name helm3",
    "kubectl": "install kubectl 1.29 or newer",
}
Manifest = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """One way to install the chart.

    `files` are values files below the repository, `settings` are --set arguments, `values` is the
    text of one more values file, and `upgrade` renders for `helm upgrade`.
    """

    files: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    upgrade: bool = False
    values: str = ""


EVERYTHING = Variant(("charts/fraudops/ci/everything-values.yaml",))
VARIANTS = {
    "default": Variant(),
    "quickstart": Variant(("charts/fraudops/values-quickstart.yaml", "k8s/values/kind.yaml")),
    "everything": EVERYTHING,
    "everything upgraded": Variant(EVERYTHING.files, upgrade=True),
    "own PostgreSQL and S3": Variant(
        ("k8s/values/external-postgres.yaml", "k8s/values/s3.yaml", "k8s/values/production.yaml")
    ),
    "CloudNativePG": Variant(("k8s/values/cloudnativepg.yaml",)),
    "own MLflow, data on a volume": Variant(
        settings=(
            "mlflow.enabled=false",
            "mlflow.url=https://mlflow.example.com",
            "data.source=volume",
        )
    ),
}


def tool(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.fail(f"{name} is not on PATH: {HOW_TO_GET[name]}")
    return program


def helm_template(
    variant: Variant,
    *,
    release: str = "fraudops",
    helm: str = "helm",
    chart: Path = CHART,
    namespace: str = NAMESPACE,
    kubernetes: str = "",
) -> subprocess.CompletedProcess[str]:
    command = [tool(helm), "template", release, str(chart), "--namespace", namespace]
    command += [argument for file in variant.files for argument in ("--values", str(ROOT / file))]
    command += ["--values", "-"] if variant.values else []
    command += [argument for setting in variant.settings for argument in ("--set", setting)]
    command += ["--kube-version", kubernetes] if kubernetes else []
    return subprocess.run(
        command + (["--is-upgrade"] if variant.upgrade else []),
        input=variant.values,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def notes(*settings: str, files: tuple[str, ...] = ()) -> str:
    """Return the notes that `helm install` would print with these settings and files."""
    command = [
        tool("helm"),
        "install",
        "fraudops",
        str(CHART),
        "--namespace",
        "fraud",
        "--dry-run=client",
    ]
    command += [argument for file in files for argument in ("--values", str(ROOT / file))]
    command += [argument for setting in settings for argument in ("--set", setting)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("NOTES:")[2]


def text_of(
    variant: Variant, release: str = "fraudops", helm: str = "helm", chart: Path = CHART
) -> str:
    # The cache takes a call with defaults for another one, so it gets every argument.
    return _text_of(variant, release, helm, chart)


@functools.cache
def _text_of(variant: Variant, release: str, helm: str, chart: Path) -> str:
    done = helm_template(variant, release=release, helm=helm, chart=chart)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(
    variant: Variant = Variant(), release: str = "fraudops", chart: Path = CHART
) -> list[Manifest]:
    """Return every object of the variant; the caller may change them."""
    objects: list[Manifest] = json.loads(json_of(variant, release, chart))
    return objects


@functools.cache
def json_of(variant: Variant, release: str, chart: Path) -> str:
    # A test may change its copy, so each call parses again; JSON parses 40 times as fast as YAML.
    documents = documents_of(text_of(variant, release, chart=chart))
    return f"[{', '.join(documents)}]"


def documents_of(text: str) -> list[str]:
    """Return each document of rendered text as JSON."""
    found = [_parsed(document) for document in text.removeprefix("---\n").split("\n---\n")]
    return [document for document in found if document]


@functools.cache
def _parsed(text: str) -> str:
    # Cached, because most objects are the same in several variants.
    document = yaml.load(text, Loader=yaml.CSafeLoader)
    return json.dumps(document, sort_keys=True) if document else ""


def refusal(*settings: str, files: tuple[str, ...] = (), values: str = "") -> str:
    """Return Helm's error for settings that it must refuse."""
    done = helm_template(Variant(files, settings, values=values))
    assert done.returncode != 0, f"rendered with {settings or values}"
    return done.stderr


def named(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    matching = [
        manifest
        for manifest in manifests
        if manifest["kind"] == kind and manifest["metadata"]["name"] == name
    ]
    assert len(matching) == 1, f"{kind} {name}: {len(matching)} found"
    return matching[0]


def kinds(manifests: list[Manifest], *names: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in names]


def title(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata']['name']}"


def job_spec(manifest: Manifest) -> dict[str, Any] | None:
    if manifest["kind"] == "Job":
        return dict(manifest["spec"])
    return dict(manifest["spec"]["jobTemplate"]["spec"]) if manifest["kind"] == "CronJob" else None


def pod_template(manifest: Manifest) -> dict[str, Any] | None:
    """Return metadata and spec of the pods that an object makes, or of the pod that it is."""
    if manifest["kind"] == "Pod":
        return {"metadata": manifest["metadata"], "spec": manifest["spec"]}
    spec = job_spec(manifest) or manifest.get("spec")
    template = spec.get("template") if isinstance(spec, Mapping) else None
    return dict(template) if template else None


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    for manifest in manifests:
        template = pod_template(manifest)
        if template:
            yield title(manifest), template


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yield label, pod spec and container; init containers and sidecars are included."""
    for owner, template in pods(manifests):
        spec = template["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield f"{owner}, container {container['name']}", spec, container


def environment(manifests: list[Manifest], container: Mapping[str, Any]) -> dict[str, str]:
    """Return the container's environment variables as it sees them.

    A variable from a Secret or from the pod has its source in angle brackets, as `<secretKeyRef>`.
    """
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            variables |= named(manifests, "ConfigMap", source["configMapRef"]["name"])["data"]
    for entry in container.get("env", []):
        variables[entry["name"]] = entry.get("value") or f"<{next(iter(entry['valueFrom']))}>"
    return variables
