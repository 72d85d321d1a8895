"""The rights of the accounts, by their own tokens, on a real API server.

They need no installed product: pods that cannot start have the labels and owners of the real ones.
"""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraudops.cluster.rollout import ANNOTATION, POINTER
from tests.chart.rendering import Variant
from tests.chart.rights_table import APPROVAL, Right, table
from tests.cluster.neighbours import in_namespace
from tests.cluster.release import CHART, Object, Release, kubeconfig_of, run
from tests.support.waiting import eventually

IMAGE = "jobs.image.repository=example.com/none"
POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
WANTED = ("ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Deployment", *POLICIES)
REPLICA_SETS = "system:serviceaccount:kube-system:replicaset-controller"
CONTAINER = "/spec/template/spec/containers/0/image"
# Every user may ask these of the API server.
ASKING = {"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}


@dataclass(frozen=True)
class Site:
    """A namespace with the accounts, the policies, and Deployments whose pods cannot start."""

    release: Release
    folder: Path

    def as_account(self, account: str, *arguments: str, stdin: Object | None = None) -> str:
        """Run kubectl with a token of the account; return its output or the API's refusal."""
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self._kubeconfig(account)), *arguments],
            input=json.dumps(stdin) if stdin else None,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout if done.returncode == 0 else done.stderr

    def _kubeconfig(self, account: str) -> Path:
        file = self.folder / account
        if not file.exists():
            config = yaml.safe_load(self.release.kubeconfig.read_text())
            token = self.release.kubectl("create", "token", f"fraudops-{account}").strip()
            config["users"] = [{"name": "account", "user": {"token": token}}]
            for each in config["contexts"]:
                each["context"] |= {"user": "account", "namespace": self.release.namespace}
            file.write_text(json.dumps(config))
        return file

    def patch(self, account: str, *operations: Object) -> str:
        text = json.dumps(operations)
        return self.as_account(
            account, "patch", "deployment", "fraudops-inference", "--type=json", "-p", text
        )

    def pod(self, component: str) -> str:
        """Return the name of a pod that the component's Deployment has made."""

        def found() -> str:
            label = f"app.kubernetes.io/component={component}"
            pods = self.release.get("pods", "-l", label)["items"]
            living = [
                pod["metadata"]["name"]
                for pod in pods
                if "deletionTimestamp" not in pod["metadata"]
                and pod["metadata"]["name"].startswith(f"fraudops-{component}-")
            ]
            assert living, f"no pod of {component}"
            return str(living[0])

        return eventually(found, 60, 0.5)

    def delete(self, account: str, pod: str) -> str:
        path = f"/api/v1/namespaces/{self.release.namespace}/pods/{pod}"
        return self.as_account(account, "delete", "--raw", path)


def rendered(namespace: str) -> list[Object]:
    """Return the chart's objects that the rights are about, the policies last."""
    chosen = [argument for value in (*APPROVAL, IMAGE) for argument in ("--set", value)]
    text = run("helm", "template", "fraudops", str(CHART), "--namespace", namespace, *chosen)
    objects = [found for found in yaml.safe_load_all(text) if found and found["kind"] in WANTED]
    return sorted(objects, key=lambda found: WANTED.index(found["kind"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    cluster = os.environ.get("KIND_CLUSTER", "fraudops")
    namespace = f"fraudops-test-{uuid.uuid4().hex[:8]}"
    objects = rendered(namespace)
    with (
        kubeconfig_of(cluster) as kubeconfig,
        in_namespace(Release(f"kind-{cluster}", kubeconfig), namespace) as release,
    ):
        site = Site(release, tmp_path_factory.mktemp("tokens"))
        try:
            for found in objects:
                release.apply(found)
            await_policies(site)
            yield site
        finally:
            # The policies belong to no namespace.
            for found in objects:
                if found["kind"] in POLICIES:
                    release.kubectl("delete", found["kind"], found["metadata"]["name"], check=False)


def await_policies(site: Site) -> None:
    """Wait until the API server has read the new policies."""
    # A patch that changes nothing is allowed, so each one names another image.
    eventually(lambda: denied(site.patch("promotion", image(unused()))), 60, 0.5)
    eventually(lambda: denied(site.delete("promotion", site.pod("mlflow"))), 60, 0.5)
    eventually(lambda: denied(made(site, "bob", site.pod("reconcile"))), 60, 0.5)


def image(name: str = "example.com/other") -> Object:
    return {"op": "replace", "path": CONTAINER, "value": name}


def unused() -> str:
    return f"example.com/{uuid.uuid4().hex}"


def serving(value: str) -> Object:
    return {"op": "add", "path": POINTER, "value": value}


def denied(answer: str, because: str = "") -> None:
    assert "ValidatingAdmissionPolicy" in answer, answer
    assert because in answer


def forbidden(answer: str) -> None:
    assert "Forbidden" in answer or "forbidden" in answer, answer
    assert "ValidatingAdmissionPolicy" not in answer


def made(site: Site, user: str, like: str, **container: Any) -> str:
    """Create a pod like another one, as this user, with changes of its container."""
    pod = site.release.get("pod", like)
    labels = dict(pod["metadata"]["labels"])
    # With this label the ReplicaSet would take the pod for one of its own.
    del labels["pod-template-hash"]
    metadata = {"generateName": "other-", "labels": labels}
    keep = ("serviceAccountName", "containers", "volumes", "securityContext")
    spec = {key: pod["spec"][key] for key in keep} | {"automountServiceAccountToken": False}
    spec["containers"][0] |= container
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    identity = ("--as", user, "--as-group", "system:masters")
    return site.release.answer(*identity, "create", "-f", "-", stdin=body)


@pytest.mark.parametrize("account", ["inference", "jobs", "promotion", "reconcile", "setup"])
def test_an_account_has_the_rights_of_the_page(site: Site, account: str) -> None:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": site.release.namespace},
    }
    # Without --raw kubectl reads the CustomResourceDefinitions first, which the account may not.
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    answer = json.loads(site.as_account(account, "create", "--raw", path, "-f", "-", stdin=review))
    name = f"fraudops-{account}"
    found: set[Right] = {
        (name, verb, resource, named)
        for rule in answer["status"]["resourceRules"]
        for resource in rule["resources"]
        if resource not in ASKING
        for verb in rule["verbs"]
        for named in rule.get("resourceNames") or [""]
    }
    assert found == {right for right in table(Variant(settings=APPROVAL)) if right[0] == name}


def test_a_promotion_reads_no_secret_and_creates_no_job(site: Site) -> None:
    site.release.kubectl("create", "secret", "generic", "fraudops-admin")
    for account in ("promotion", "reconcile", "inference", "jobs"):
        forbidden(site.as_account(account, "get", "secret", "fraudops-admin"))
        forbidden(site.as_account(account, "create", "job", "x", "--image=example.com/none"))


def test_a_promotion_changes_the_annotation_and_nothing_else(site: Site) -> None:
    only = "changes only the annotation"
    denied(site.patch("promotion", image()), only)
    denied(site.patch("promotion", image(), serving("2/2/d")), only)
    replicas = {"op": "replace", "path": "/spec/replicas", "value": 0}
    denied(site.patch("promotion", replicas), only)
    volume = {"name": "key", "secret": {"secretName": "fraudops-verdict-key"}}
    added = {"op": "add", "path": "/spec/template/spec/volumes/-", "value": volume}
    denied(site.patch("promotion", added), only)
    other = {"op": "add", "path": "/spec/template/metadata/annotations/other", "value": "x"}
    denied(site.patch("promotion", other), only)
    # Kubernetes copies them to every pod, which then never ends.
    path = "/spec/template/metadata/finalizers"
    finalizers = {"op": "add", "path": path, "value": ["example.com/hold"]}
    denied(site.patch("promotion", finalizers), only)
    denied(site.patch("promotion", finalizers, serving("2/2/d")), only)
    denied(site.patch("reconcile", finalizers), only)
    assert "patched" in site.patch("promotion", serving("2/2/d"))


def test_the_reconciler_removes_the_annotation_and_sets_none(site: Site) -> None:
    assert "patched" in site.patch("promotion", serving("3/2/d"))
    denied(site.patch("reconcile", serving("4/2/d")), "only removes the annotation")
    denied(site.patch("reconcile", image()), "changes only the annotation")
    assert "patched" in site.patch("reconcile", {"op": "remove", "path": POINTER})
    template = site.release.get("deployment", "fraudops-inference")["spec"]["template"]
    assert ANNOTATION not in template["metadata"]["annotations"]
    denied(site.patch("reconcile", serving("5/2/d")), "only removes the annotation")


def test_a_promotion_deletes_only_pods_of_the_inference_deployment(site: Site) -> None:
    only = "deletes only pods of the Deployment fraudops-inference"
    denied(site.delete("promotion", site.pod("mlflow")), only)
    denied(site.delete("promotion", site.pod("reconcile")), only)
    # A pod with the labels alone has no such owner.
    bare = made(site, "admin", site.pod("inference"), image="example.com/none")
    name = bare.split()[0].removeprefix("pod/")
    denied(site.delete("promotion", name), only)
    forbidden(site.delete("reconcile", site.pod("inference")))
    assert '"kind":"Pod"' in site.delete("promotion", site.pod("inference")).replace(" ", "")


def test_only_the_reconcilers_program_runs_with_its_account(site: Site) -> None:
    # The Deployment's pod exists, so the policy accepts what the chart renders.
    own = site.pod("reconcile")
    denied(made(site, "bob", own), "bob is not the ReplicaSet controller")
    for change in (
        {"image": "example.com/other:1"},
        {"command": ["python", "-m", "jobs.promote"]},
        {"livenessProbe": {"exec": {"command": ["sh", "-c", "curl x"]}}},
        {"lifecycle": {"postStart": {"exec": {"command": ["true"]}}}},
    ):
        denied(made(site, REPLICA_SETS, own, **change), "runs only jobs.reconcile")
    settings = [{"name": "FRAUDOPS_SIGNING__WAIVERS", "value": "allowed"}]
    denied(made(site, REPLICA_SETS, own, env=settings), "the chart's ConfigMap")
    changed = site.release.answer("set", "image", f"pod/{own}", "reconcile=example.com/other:1")
    denied(changed, "the images of a promoting pod cannot change")
    assert site.release.get("pod", own)["spec"]["containers"][0]["image"] != "example.com/other:1"
