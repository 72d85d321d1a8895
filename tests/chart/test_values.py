"""The values: a strict schema, a description for each, and up-to-date generated files."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, EVERYTHING, ROOT, Variant, notes, refusal, render, tool
from tests.chart.values_schema import SCHEMA, nodes
from tests.support.scripts import script

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())


def every_node() -> list[tuple[str, dict[str, Any]]]:
    return [
        *nodes(SCHEMA),
        *(
            (f"{name}{path}", node)
            for name, definition in SCHEMA["$defs"].items()
            for path, node in nodes(definition)
        ),
    ]


def test_every_value_is_described_by_a_sentence() -> None:
    described = {path: node.get("description", "") for path, node in nodes(SCHEMA) if path}
    described |= {
        f"{name}.{key}": child.get("description", "")
        for name, d in SCHEMA["$defs"].items()
        for key, child in d.get("properties", {}).items()
    }
    assert {path: text for path, text in described.items() if not text.endswith(".")} == {}


def test_no_object_of_the_values_accepts_an_unknown_key() -> None:
    loose = {
        path
        for path, node in every_node()
        if "properties" in node and node.get("additionalProperties") is not False
    }
    # A parent chart's own values are in `global` too.
    assert loose == {"global"}


def assert_same_names(node: dict[str, Any], values: Any, path: str) -> None:
    if "$ref" in node:
        node = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]]
    if node.get("$comment") == script("render").ONE_VALUE:
        assert set(values) <= set(node["properties"]), path
    elif "properties" in node:
        assert set(values) == set(node["properties"]), path
        for name, child in node["properties"].items():
            assert_same_names(child, values[name], f"{path}.{name}")


def test_the_defaults_and_the_schema_have_the_same_values() -> None:
    assert_same_names(SCHEMA, VALUES, "values")


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("inference.replcas=3", "replcas"),
        ("inference.workers=0", "workers"),
        ("inference.image.tag=latest", "tag"),
        ("gates.rocAuc=high", "rocAuc"),
        ("environment=prod", "environment"),
        ("inference.resources.limits=null", "limits"),
        ("data.sha256=abc", "sha256"),
    ],
)
def test_a_wrong_value_is_refused_by_name(setting: str, complaint: str) -> None:
    assert complaint in refusal(setting)


def test_a_number_may_come_from_the_command_line() -> None:
    # Helm passes the 0.5 of `--set` as a string.
    data = next(
        m["data"]
        for m in render(Variant(settings=("gates.rocAuc=0.5",)))
        if m["metadata"]["name"] == "fraudops-jobs" and m["kind"] == "ConfigMap"
    )
    assert data["FRAUDOPS_GATES__ROC_AUC"] == "0.5"


def test_some_template_reads_every_value() -> None:
    # A value that no template reads would have no effect.
    words = set(
        re.findall(
            r"\w+",
            "\n".join(path.read_text() for path in CHART.glob("templates/**/*") if path.is_file()),
        )
    )
    assert {
        path
        for path, node in nodes(SCHEMA)
        if path not in ("", "global") and path.rsplit(".", 1)[-1] not in words
    } == set()


def test_the_files_generated_from_the_chart_are_up_to_date() -> None:
    tool("helm")
    done = subprocess.run(
        [sys.executable, ROOT / "k8s" / "render.py", "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_lists_every_value() -> None:
    rendering = script("render")
    table = rendering.table()
    for path, node in rendering.leaves(SCHEMA, SCHEMA):
        assert f"| `{path}` |" in table
        assert node["description"] in table


@pytest.mark.parametrize("folder", ["default", "quickstart"])
def test_the_plain_manifests_build_without_helm(folder: str) -> None:
    done = subprocess.run(
        [tool("kubectl"), "kustomize", str(ROOT / "k8s" / folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    built = [document for document in yaml.safe_load_all(done.stdout) if document]
    assert {
        document["metadata"].get("namespace")
        for document in built
        if document["kind"] != "Namespace"
    } == {"fraudops"}
    assert not any(
        "helm.sh/hook" in document["metadata"].get("annotations", {}) for document in built
    )
    namespace = next(document for document in built if document["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    subjects = {
        subject["namespace"]
        for document in built
        if document["kind"] == "RoleBinding"
        for subject in document["subjects"]
    }
    assert subjects == {"fraudops"}


def test_the_notes_name_the_command_to_run_while_no_model_serves() -> None:
    assert "kubectl -n fraud create job first-model --from=cronjob/fraudops-pipeline" in notes()
    assert "the bootstrap Job trains, validates and promotes one from the packaged sample" in notes(
        "bootstrap.enabled=true", "environment=development"
    )


@pytest.mark.parametrize("settings", [(), ("bootstrap.enabled=true", "environment=development")])
def test_every_command_of_the_notes_selects_objects_of_this_release(
    settings: tuple[str, ...],
) -> None:
    selectors = re.findall(r" -l (\S+)", notes(*settings))
    assert len(selectors) >= 4
    for selector in selectors:
        assert "fraudops.io/release=fraudops" in selector or (
            "app.kubernetes.io/instance=fraudops" in selector.split(",")
        ), selector


def test_the_notes_warn_of_settings_that_are_not_for_production() -> None:
    development = notes("environment=development")
    assert "knows nothing of your transactions" in development
    assert (
        "/model_info says trained_on_sample, and the metric fraudops_model_trained_on_sample is 1"
        in development
    )
    assert "one pod without backups" in notes()
    assert "Network policies are off" in notes("networkPolicy.enabled=false")
    assert "One pod serves" in notes("inference.replicas=1")
    own = notes(files=EVERYTHING.files)
    assert "https://fraud.example.com/model_info" in own
    assert "environment is" not in own


def test_the_notes_warn_of_a_node_port_and_of_a_signature_in_a_url() -> None:
    assert "deny traffic through it from other nodes" in notes("inference.service.type=NodePort")
    source = ("data.source=url", f"data.sha256={'0' * 64}")
    assert "name it in data.existingSecret" in notes(*source, "data.url=https://a/b?sig=secret")
    assert "name it in data.existingSecret" not in notes(*source, "data.url=https://a/b?raw=1")
