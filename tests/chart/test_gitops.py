"""What GitOps tools apply, track and delete: rendered kinds, labels, annotations."""

import asyncio
import json
import os
from pathlib import Path

import pytest
import yaml

from fraudops.cluster.api import Cluster
from fraudops.cluster.kept import RELEASE_LABEL, TRACKING_LABEL
from tests.chart.matrix import ALL
from tests.chart.rendering import (
    CHART,
    EVERYTHING,
    NAMESPACE,
    VARIANTS,
    Manifest,
    Variant,
    kinds,
    named,
    render,
    title,
    tool,
)
from tests.support.cluster_objects import create_namespace
from tests.support.documents import ROOT, blocks
from tests.support.kube_api import TOKENS, KubeApi

PAGE = ROOT / "docs/operations/gitops.md"
EXCLUDED: dict[str, list[str]] = yaml.safe_load(
    (Path(__file__).parent / "argo_exclusions.yaml").read_text()
)
IGNORED = "argocd.argoproj.io/ignore-healthcheck"
LEASES = "coordination.k8s.io/v1"


def excluded(manifest: Manifest) -> bool:
    group = manifest["apiVersion"].rpartition("/")[0]
    return manifest["kind"] in EXCLUDED.get(group, [])


def test_no_rendered_kind_is_one_that_argo_cd_excludes() -> None:
    assert excluded({"apiVersion": LEASES, "kind": "Lease"})
    assert excluded({"apiVersion": "v1", "kind": "Endpoints"})
    variants = [*VARIANTS.values(), *(each.variant() for each in ALL.values())]
    for variant in variants:
        assert [title(m) for m in render(variant) if excluded(m)] == [], variant


def as_argo_cd_labels_them(manifests: list[Manifest]) -> list[Manifest]:
    """Argo CD up to 2.14 writes the name of the Application into this label of each object."""
    for manifest in manifests:
        manifest["metadata"]["labels"][TRACKING_LABEL] = "the-application"
    return manifests


def test_prometheus_finds_the_pods_under_the_label_of_argo_cd() -> None:
    manifests = as_argo_cd_labels_them(render(EVERYTHING))
    monitor = named(manifests, "ServiceMonitor", "fraudops-inference")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    found = [s for s in kinds(manifests, "Service") if wanted <= s["metadata"]["labels"].items()]
    assert [s["metadata"]["name"] for s in found] == ["fraudops-inference-admin"]


def test_the_claims_of_the_chart_are_found_under_the_label_of_argo_cd() -> None:
    claims = kinds(as_argo_cd_labels_them(render(EVERYTHING)), "PersistentVolumeClaim")
    assert claims
    assert {c["metadata"]["labels"][RELEASE_LABEL] for c in claims} == {"fraudops"}


def test_only_a_suspended_cronjob_is_left_out_of_the_health(manifests: list[Manifest]) -> None:
    for cronjob in kinds(manifests, "CronJob"):
        ignored = cronjob["metadata"].get("annotations", {}).get(IGNORED) == "true"
        assert ignored == cronjob["spec"]["suspend"], title(cronjob)


@pytest.mark.parametrize("owner", [None, "another", "fraudops"])
async def test_only_the_lease_that_this_release_made_by_helm_is_rendered(
    owner: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Release 0.2.0 had the Lease in the chart. The setup Job makes it now."""
    annotations = {"meta.helm.sh/release-name": owner} if owner else {}
    metadata = {"name": "fraudops-promotion", "annotations": annotations}
    made = {"apiVersion": LEASES, "kind": "Lease", "metadata": metadata}
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    # Helm sends no token over plain HTTP.
    monkeypatch.setitem(TOKENS, "", "admin")
    async with KubeApi().running() as api:
        monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig(tmp_path / "kubeconfig")))
        async with Cluster.connect(NAMESPACE) as cluster:
            await create_namespace(cluster)
            await cluster.call("POST", cluster.path(LEASES, "leases"), made)
        leases = [m for m in await rendered_against_a_cluster() if m["kind"] == "Lease"]
        asked = ("GET", f"/apis/{LEASES}/namespaces/{NAMESPACE}/leases/fraudops-promotion")
        assert asked in api.requests
    assert len(leases) == (owner == "fraudops")
    for lease in leases:
        # Without the spec the holder keeps the lock through the upgrade.
        assert "spec" not in lease
        # Without the annotation a later release that does not render it would delete it.
        assert lease["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


async def rendered_against_a_cluster() -> list[Manifest]:
    """Render with Helm 3, because Helm 4 asks the API server for the schema of every kind."""
    command = (tool("helm3"), "template", "fraudops", str(CHART), "--namespace", NAMESPACE)
    process = await asyncio.create_subprocess_exec(
        *command, "--dry-run=server", stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return [document for document in yaml.safe_load_all(output) if document]


def examples() -> dict[str, Manifest]:
    documents = [
        document
        for block in blocks()
        if block.page == PAGE and block.language == "yaml"
        for document in yaml.safe_load_all(block.text)
    ]
    return {document["kind"]: document for document in documents}


def test_the_values_of_the_examples_render() -> None:
    source = examples()["Application"]["spec"]["source"]
    release = examples()["HelmRelease"]["spec"]
    assert (ROOT / source["path"]) == CHART == (ROOT / release["chart"]["spec"]["chart"])
    for values in (source["helm"]["valuesObject"], release["values"]):
        assert "Deployment fraudops-inference" in map(
            title, render(Variant(values=json.dumps(values)))
        )
    assert source["helm"]["releaseName"] == release["releaseName"] == "fraudops"
