"""Rules for every object: valid schema, unique name, standard labels, resolved references."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart.kubernetes_schemas import KUBERNETES, check
from tests.chart.matrix import ALL
from tests.chart.rendering import (
    CHART,
    EVERYTHING,
    NAMESPACE,
    ROOT,
    VARIANTS,
    Manifest,
    Variant,
    containers,
    kinds,
    named,
    pod_template,
    pods,
    refusal,
    render,
    text_of,
    title,
)

HEADLESS = {"fraudops-postgresql"}
# The setup Job makes these, never the chart.
MADE_ONCE = {
    "fraudops-admin",
    "fraudops-database",
    "fraudops-serving",
    "fraudops-data",
    "kube-root-ca.crt",
}
# Objects of the site that the values files name.
EXISTING = {
    "backups",
    "audit-key",
    "client-keys",
    "client-jwks",
    "test-key",
    "fraudops-postgres",
    "fraudops-postgres-app",
    "fraudops-artifacts",
    "s3",
    "history",
    "registry",
}


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_fits_its_schema(manifests: list[Manifest], version: str) -> None:
    for manifest in manifests:
        check(version, json.dumps(manifest, sort_keys=True))


def test_the_schemas_refuse_an_unknown_field() -> None:
    for manifest in render(EVERYTHING):
        manifest["spec" if "spec" in manifest else "metadata"]["unknownField"] = 1
        with pytest.raises(jsonschema.ValidationError):
            check(KUBERNETES[0], json.dumps(manifest))


class UniqueKeyLoader(yaml.SafeLoader):
    """A loader that refuses a key twice in one mapping, where YAML would keep the later one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        twice = [
            key for key, count in Counter(key.value for key, _ in node.value).items() if count > 1
        ]
        assert not twice, f"line {node.start_mark.line + 1}: {twice} is there twice"
        return super().construct_mapping(node, deep)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
def test_no_mapping_has_a_key_twice(variant: Variant) -> None:
    assert len(list(yaml.load_all(text_of(variant), Loader=UniqueKeyLoader))) > 30


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=str)
def test_both_helms_render_the_same(variant: Variant) -> None:
    assert text_of(variant, helm="helm3") == text_of(variant, helm="helm")


def test_no_two_objects_have_one_name(manifests: list[Manifest]) -> None:
    assert [name for name, count in Counter(map(title, manifests)).items() if count > 1] == []


def test_every_object_carries_the_standard_labels(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        labels = manifest["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "fraudops", title(manifest)
        assert labels["app.kubernetes.io/instance"] == "fraudops", title(manifest)
        assert {
            "app.kubernetes.io/component",
            "app.kubernetes.io/version",
            "helm.sh/chart",
        } <= labels.keys(), title(manifest)


def test_no_object_is_outside_of_the_namespace(manifests: list[Manifest]) -> None:
    cluster_wide = {
        "ClusterRole",
        "ClusterRoleBinding",
        "Namespace",
        "PriorityClass",
        "StorageClass",
        "CustomResourceDefinition",
    }
    assert kinds(manifests, *cluster_wide) == []
    for binding in kinds(manifests, "RoleBinding"):
        assert {subject["namespace"] for subject in binding["subjects"]} == {NAMESPACE}


def hooks(variant: Variant) -> set[str]:
    by_name = {
        manifest["metadata"]["name"]: manifest["metadata"]
        .get("annotations", {})
        .get("helm.sh/hook")
        for manifest in render(variant)
    }
    return {f"{hook} {name}" for name, hook in by_name.items() if hook}


def test_there_is_no_hook_but_the_test_and_the_migration_before_an_upgrade() -> None:
    assert hooks(EVERYTHING) == {"test fraudops-test-prediction"}
    assert hooks(VARIANTS["everything upgraded"]) == {
        "test fraudops-test-prediction",
        "pre-upgrade fraudops-migrate-before-upgrade",
    }


def test_only_the_notes_and_the_old_lease_read_objects_of_the_cluster() -> None:
    asking = {
        str(path.relative_to(CHART))
        for path in CHART.rglob("templates/**/*")
        if path.is_file() and "lookup " in path.read_text()
    }
    # tests/chart/test_gitops.py holds the second one.
    assert asking == {"templates/NOTES.txt", "templates/promotion/lease.yaml"}


def test_no_secret_is_rendered(manifests: list[Manifest]) -> None:
    assert kinds(manifests, "Secret") == []


def test_each_template_has_one_kind() -> None:
    for path in CHART.glob("templates/*/*.yaml"):
        assert len(set(re.findall(r"^kind: (\w+)", path.read_text(), re.MULTILINE))) <= 1, path


def test_selectors_select_the_intended_pods(manifests: list[Manifest]) -> None:
    pod_labels = {owner: template["metadata"]["labels"] for owner, template in pods(manifests)}

    def selected(labels: dict[str, str]) -> set[str]:
        return {owner for owner, own in pod_labels.items() if labels.items() <= own.items()}

    for manifest in kinds(manifests, "Deployment", "StatefulSet"):
        assert selected(manifest["spec"]["selector"]["matchLabels"]) == {title(manifest)}
    for service in kinds(manifests, "Service"):
        assert len(selected(service["spec"]["selector"])) == 1, title(service)
    for budget in kinds(manifests, "PodDisruptionBudget"):
        assert selected(budget["spec"]["selector"]["matchLabels"]) == {
            "Deployment fraudops-inference"
        }
    for monitor in kinds(manifests, "ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"].items()
        assert [
            s["metadata"]["name"]
            for s in kinds(manifests, "Service")
            if labels <= s["metadata"]["labels"].items()
        ] == ["fraudops-inference-admin"]


def test_every_named_port_exists_in_the_pod(manifests: list[Manifest]) -> None:
    ports = {
        owner: {
            port["name"]
            for container in template["spec"]["containers"]
            for port in container.get("ports", [])
        }
        for owner, template in pods(manifests)
    }
    targets = {
        "fraudops-inference": "Deployment fraudops-inference",
        "fraudops-inference-admin": "Deployment fraudops-inference",
    }
    targets |= {
        "fraudops-mlflow": "Deployment fraudops-mlflow",
        "fraudops-postgresql": "StatefulSet fraudops-postgresql",
    }
    for service in kinds(manifests, "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports[
            targets[service["metadata"]["name"]]
        ]
    for label, _, container in containers(manifests):
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container.get(probe, {}).get("httpGet", {}).get("port")
            assert port is None or port in {port["name"] for port in container["ports"]}, label


def test_every_object_that_a_pod_mounts_or_reads_exists(manifests: list[Manifest]) -> None:
    rendered = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    for manifest in manifests:
        for kind, name in references(manifest):
            assert (kind, name) in rendered or name in MADE_ONCE | EXISTING | {"default"}, (
                f"{title(manifest)} refers to {kind} {name}"
            )


def references(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """Yield kind and name of every object that the pods of this one mount or read."""
    template = pod_template(manifest)
    if template is None:
        return
    spec = template["spec"]
    volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
    volumes |= {
        claim["metadata"]["name"]: {} for claim in manifest["spec"].get("volumeClaimTemplates", [])
    }
    yield "ServiceAccount", spec.get("serviceAccountName", "default")
    for volume in volumes.values():
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes.keys(), (
            title(manifest)
        )
        for source in container.get("envFrom", []):
            yield (
                ("ConfigMap", source["configMapRef"]["name"])
                if "configMapRef" in source
                else ("Secret", source["secretRef"]["name"])
            )
        for entry in container.get("env", []):
            if "secretKeyRef" in entry.get("valueFrom", {}):
                yield "Secret", entry["valueFrom"]["secretKeyRef"]["name"]


def test_no_claim_is_rendered_that_no_running_pod_mounts(manifests: list[Manifest]) -> None:
    """`helm --wait` would time out if the StorageClass binds a claim only at its first use."""
    running = {
        name
        for manifest in kinds(manifests, "Deployment", "StatefulSet")
        for _, name in references(manifest)
    }
    assert {
        claim["metadata"]["name"] for claim in kinds(manifests, "PersistentVolumeClaim")
    } <= running


def test_claims_outlive_the_release(manifests: list[Manifest]) -> None:
    for claim in kinds(manifests, "PersistentVolumeClaim"):
        assert claim["metadata"]["annotations"].items() >= {
            ("helm.sh/resource-policy", "keep"),
            ("argocd.argoproj.io/sync-options", "Prune=false,Delete=false"),
            ("kustomize.toolkit.fluxcd.io/prune", "disabled"),
        }


def test_the_key_of_rollouts_is_never_rendered() -> None:
    for variant in VARIANTS.values():
        assert "fraudops.io/serving:" not in text_of(variant)


def test_another_release_has_other_names() -> None:
    first, second = (
        {title(manifest) for manifest in render(EVERYTHING, release)}
        for release in ("fraudops", "second")
    )
    assert not first & second
    assert "Deployment second-fraudops-inference" in second


def test_the_instance_label_is_the_names_prefix() -> None:
    # The promotion finds the pods by this label.
    deployment = named(render(release="second"), "Deployment", "second-fraudops-inference")
    settings = named(render(release="second"), "ConfigMap", "second-fraudops-jobs")["data"]
    assert (
        deployment["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/instance"]
        == settings["FRAUDOPS_CLUSTER__RELEASE"]
        == "second-fraudops"
    )


def test_names_are_short_enough_for_kubernetes() -> None:
    longest = "x" * 36
    for manifest in render(Variant(EVERYTHING.files, (f"fullnameOverride={longest}",))):
        assert len(manifest["metadata"]["name"]) <= (52 if manifest["kind"] == "CronJob" else 63), (
            title(manifest)
        )
    assert "Set fullnameOverride" in refusal(f"fullnameOverride={longest}x")


def test_values_that_contradict_each_other_are_refused_with_a_remedy() -> None:
    assert "Set data.source to your own data" in refusal("bootstrap.enabled=true")
    assert "name in postgresql.existingSecret" in refusal("postgresql.enabled=false")
    assert "set mlflow.url" in refusal("mlflow.enabled=false")
    assert "set mlflow.artifacts.s3.destination" in refusal("mlflow.artifacts.type=s3")
    assert "set data.url and data.sha256" in refusal("data.source=url")
    assert "needs httpRoute.parentRefs" in refusal("httpRoute.enabled=true")


def test_every_example_of_values_is_rendered_here() -> None:
    variants = [*VARIANTS.values(), *(each.variant() for each in ALL.values())]
    used = {file for variant in variants for file in variant.files}
    examples = {
        str(path.relative_to(ROOT))
        for path in (
            *ROOT.glob("k8s/values/*.yaml"),
            *CHART.glob("ci/*.yaml"),
            *CHART.glob("values-*.yaml"),
        )
    }
    assert examples - used == {
        "k8s/values/cloudnativepg-cluster.yaml",
        "charts/fraudops/ci/quickstart-values.yaml",
    }
