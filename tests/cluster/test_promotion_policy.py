"""The policies that hold the names on a promotion, on a real API server.

They need no installed product: Jobs whose pods cannot start meet the policies of the chart.
"""

import json
import os
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraudops.cluster.api import Cluster
from fraudops.cluster.identity import JobApprovals, caller
from fraudops.cluster.runner import JobSpec, job_of, new_name
from fraudops.errors import RefusedError
from fraudops.promotion.approval import wait_for_approval
from fraudops.promotion.local import SystemClock
from fraudops.promotion.requester import requester_of
from tests.cluster.release import CHART, Release, kubeconfig_of, run
from tests.support.waiting import eventually

REQUESTED_BY, APPROVED_BY = "fraudops.io/requested-by", "fraudops.io/approved-by"
ACCOUNT = "fraudops-promotion"
CRONJOB_CONTROLLER = "system:serviceaccount:kube-system:cronjob-controller"
INSTALLER = "installer"
# Only the CronJob controller writes it.
SCHEDULED = "batch.kubernetes.io/cronjob-scheduled-timestamp"
SETTINGS = (
    "promotion.policy.enabled=true",
    f"promotion.policy.automation={{{INSTALLER}}}",
    "promotion.approval.required=true",
    "jobs.image.repository=example.com/none",
)
POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
Object = dict[str, Any]
Change = Callable[[Object, Object], Any]


@dataclass(frozen=True)
class Site:
    """A namespace with the policies, the chart's CronJobs, and users who may edit everything."""

    release: Release

    def as_user(self, user: str, *arguments: str, stdin: Object | None = None) -> str:
        """Run kubectl as the user, and return its output or the API's refusal."""
        return self.release.answer("--as", user, *arguments, stdin=stdin)

    def job(self, requester: str, pods_requester: str | None = None) -> Object:
        """Return a Job of the chart's promote template with these names on it and on its pods."""
        cronjob = self.release.get("cronjob", "fraudops-promote")
        template = cronjob["spec"]["jobTemplate"]
        name_requester(template, requester)
        pods = template["spec"]["template"]
        name_requester(pods, requester if pods_requester is None else pods_requester)
        template["metadata"]["name"] = f"promote-{uuid.uuid4().hex[:6]}"
        return {"apiVersion": "batch/v1", "kind": "Job", **template}

    def create(self, user: str, made: Object) -> str:
        return self.as_user(user, "create", "-f", "-", stdin=made)

    def created(self, user: str, **spec: Any) -> str:
        """Create an honest Job of the user and return its name."""
        job = self.job(user)
        job["spec"] |= spec
        answer = self.create(user, job)
        assert "created" in answer, answer
        return str(job["metadata"]["name"])

    def annotate(self, user: str, job: str, annotation: str) -> str:
        return self.as_user(user, "annotate", "job", job, "--overwrite", annotation)

    @contextmanager
    def kubeconfig(self, user: str, folder: Path) -> Iterator[Path]:
        """Yield a kubeconfig with which every request is this user's.

        The product's client knows no impersonation, so `kubectl proxy` adds it.
        """
        command = ["kubectl", "--context", self.release.context, "--as", user, "proxy", "--port=0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
            try:
                assert proxy.stdout
                address = proxy.stdout.readline().split()[-1]
                config = {
                    "clusters": [{"name": "it", "cluster": {"server": f"http://{address}"}}],
                    "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
                    "users": [{"name": "it", "user": {}}],
                    "current-context": "it",
                }
                file = folder / f"{user}.kubeconfig"
                file.write_text(json.dumps(config))
                yield file
            finally:
                proxy.terminate()


def name_requester(template: Object, requester: str) -> None:
    template["metadata"]["annotations"] = {REQUESTED_BY: requester} if requester else {}


def rendered(namespace: str) -> list[Object]:
    """Return the chart's objects that the policies are about, the policies last.

    `helm install` has the same order, and it lets the installer of this test make the CronJobs.
    """
    chosen = [argument for value in SETTINGS for argument in ("--set", value)]
    text = run("helm", "template", "fraudops", str(CHART), "--namespace", namespace, *chosen)
    objects = [found for found in yaml.safe_load_all(text) if found]
    wanted = ("ServiceAccount", "ConfigMap", "CronJob", *POLICIES)
    return sorted(
        (found for found in objects if found["kind"] in wanted),
        key=lambda found: found["kind"] in POLICIES,
    )


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    cluster = os.environ.get("KIND_CLUSTER", "fraudops")
    namespace = f"fraudops-test-{uuid.uuid4().hex[:8]}"
    objects = rendered(namespace)
    policies = [found for found in objects if found["kind"] in POLICIES]
    with kubeconfig_of(cluster) as kubeconfig, pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(kubeconfig))
        site = Site(Release(f"kind-{cluster}", kubeconfig, namespace=namespace))
        kubectl = site.release.kubectl
        kubectl("create", "namespace", namespace)
        try:
            for user in ("alice", "bob", INSTALLER):
                kubectl("create", "rolebinding", user, "--clusterrole=edit", f"--user={user}")
            for found in objects:
                site.release.apply(found)
            # The API server reads new policies a moment later.
            eventually(lambda: denied(site.create("bob", site.job("alice"))), 60, 0.5)
            eventually(lambda: denied(site.create("bob", pod_of(ACCOUNT))), 60, 0.5)
            eventually(lambda: denied(changed_cronjob(site, "bob")), 60, 0.5)
            yield site
        finally:
            for found in policies:
                kubectl("delete", found["kind"], found["metadata"]["name"], check=False)
            kubectl("delete", "namespace", namespace, "--wait=false")


def pod_of(account: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "bare-"},
        "spec": {
            "serviceAccountName": account,
            "containers": [{"name": "main", "image": "example.com/none"}],
        },
    }


def changed_cronjob(site: Site, user: str) -> str:
    return site.as_user(
        user, "patch", "cronjob", "fraudops-promote", "-p", '{"spec": {"suspend": false}}'
    )


def denied(answer: str, because: str = "") -> None:
    assert "ValidatingAdmissionPolicy" in answer, answer
    assert because in answer


@pytest.mark.parametrize("names", [("alice", "alice"), ("bob", "alice"), ("", "")])
def test_a_job_with_a_false_name_is_refused(site: Site, names: tuple[str, str]) -> None:
    denied(site.create("bob", site.job(*names)), "must be bob")


def variable(container: Object, name: str, value: str) -> None:
    others = [entry for entry in container["env"] if entry["name"] != name]
    container["env"] = [*others, {"name": name, "value": value}]


def with_own_selector(job: Object) -> None:
    labels = {
        "batch.kubernetes.io/job-name": "approved",
        "batch.kubernetes.io/controller-uid": "the-approved-ones",
    }
    job["spec"]["template"]["metadata"]["labels"] |= labels
    job["spec"] |= {"manualSelector": True, "selector": {"matchLabels": labels}}


def also_runs(job: Object, kind: str, main: Object) -> None:
    """Add a container that promotes what the approver does not see."""
    other = main | {"name": "other", "args": ["--version", "6"]}
    pod = job["spec"]["template"]["spec"]
    pod[kind] = [other, *pod.get(kind, [])]


def sets(name: str, value: str) -> tuple[Change, str]:
    """Return the change that sets a variable, and what the refusal names."""
    return lambda _, main: variable(main, name, value), "ConfigMap"


CHANGES: dict[str, tuple[Change, str]] = {
    "another image": (lambda _, main: main.update(image="example.com/none-such:1"), "image"),
    "another command": (lambda _, main: main.update(command=["python", "-c", "1"]), "image"),
    "another name for the program": sets("FRAUDOPS_REQUESTED_BY", "alice"),
    "another Job for the program": sets("FRAUDOPS_JOB", "approved"),
    "no approval": sets("FRAUDOPS_PROMOTION__APPROVAL_REQUIRED", "false"),
    "another ConfigMap": (
        lambda _, main: main.update(envFrom=[{"configMapRef": {"name": "mine"}}]),
        "ConfigMap",
    ),
    "no ConfigMap": (lambda _, main: main.pop("envFrom"), "ConfigMap"),
    # The programs read a variable in any case of letters.
    "no approval, in small letters": sets("fraudops_promotion__approval_required", "false"),
    "allowed waivers": sets("FRAUDOPS_SIGNING__WAIVERS", "allowed"),
    "no name for the program": (
        lambda _, main: main.update(
            env=[each for each in main["env"] if each["name"] != "FRAUDOPS_REQUESTED_BY"]
        ),
        "ConfigMap",
    ),
    "a hook": (
        lambda _, main: main.update(lifecycle={"postStart": {"exec": {"command": ["true"]}}}),
        "without hooks",
    ),
    "a probe": (
        lambda _, main: main.update(livenessProbe={"exec": {"command": ["true"]}}),
        "without hooks",
    ),
    "a second container": (lambda job, main: also_runs(job, "containers", main), "one main"),
    "a step that promotes": (lambda job, main: also_runs(job, "initContainers", main), "one main"),
    "no end": (lambda job, _: job["spec"].pop("activeDeadlineSeconds"), "at most"),
    "a late end": (lambda job, _: job["spec"].update(activeDeadlineSeconds=10**7), "at most"),
    "the labels of another Job": (lambda job, _: with_own_selector(job), "selector"),
    "an approval": (
        lambda job, _: job["metadata"]["annotations"].update({APPROVED_BY: "alice"}),
        "on a Job that exists",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_job_that_could_write_a_false_name_is_refused(site: Site, name: str) -> None:
    change, reason = CHANGES[name]
    job = site.job("bob")
    change(job, job["spec"]["template"]["spec"]["containers"][0])
    denied(site.create("bob", job), reason)


def test_the_old_field_of_the_account_is_no_way_around(site: Site) -> None:
    job = site.job("alice")
    spec = job["spec"]["template"]["spec"]
    spec["serviceAccount"] = spec.pop("serviceAccountName")
    denied(site.create("bob", job))


def test_a_job_of_another_account_needs_no_name(site: Site) -> None:
    job = site.job("")
    job["spec"]["template"]["spec"] |= {"serviceAccountName": "default", "serviceAccount": ""}
    assert "created" in site.create("bob", job)


def test_a_bare_pod_with_the_promoting_account_is_refused(site: Site) -> None:
    denied(site.create("bob", pod_of(ACCOUNT)), "only a Job")
    assert "created" in site.create("bob", pod_of("default"))


def test_the_name_on_a_job_and_on_its_pod_cannot_change(site: Site) -> None:
    job = site.created("bob")
    denied(site.annotate("bob", job, f"{REQUESTED_BY}=alice"), "cannot change")
    denied(site.annotate("bob", job, f"{REQUESTED_BY}-"), "cannot change")
    assert "annotated" in site.annotate("bob", job, "example.com/note=mine")
    pods = ("-l", f"batch.kubernetes.io/job-name={job}", "--overwrite")
    eventually(lambda: must_exist(site.as_user("bob", "get", "pod", *pods[:2])), 60, 0.5)
    denied(site.as_user("bob", "annotate", "pod", *pods, f"{REQUESTED_BY}=alice"), "cannot change")
    label = "batch.kubernetes.io/job-name=approved"
    denied(site.as_user("bob", "label", "pod", *pods, label), "cannot change")
    # Nor may the installer of the cluster add a container to the pod.
    pod = site.release.get("pod", *pods[:2])["items"][0]["metadata"]["name"]
    debug = ("debug", pod, "--image=example.com/none", "--attach=false", "--profile=general")
    answer = subprocess.run(
        ["kubectl", "--context", site.release.context, "-n", site.release.namespace, *debug],
        capture_output=True,
        text=True,
        check=False,
    )
    denied(answer.stderr, "no container may join")


def test_the_program_of_a_pod_cannot_change(site: Site) -> None:
    """Kubernetes starts a container again when its image changes."""
    job = site.created("bob")
    pods = ("-l", f"batch.kubernetes.io/job-name={job}")
    eventually(lambda: must_exist(site.as_user("bob", "get", "pod", *pods)), 60, 0.5)
    image = ("set", "image", "pod", *pods, "promote=example.com/none-such:1")
    denied(site.as_user("bob", *image), "images of a promoting pod cannot change")


def test_a_change_of_the_status_is_no_way_around(site: Site) -> None:
    """Kubernetes itself accepts annotations together with a status."""
    job = site.created("bob")
    approval = json.dumps({"metadata": {"annotations": {APPROVED_BY: "alice"}}})
    context = ("--context", site.release.context, "-n", site.release.namespace)
    patch = ("patch", "job", job, "--subresource=status", "--type=merge", "-p", approval)
    # The installer of the cluster has the right to write a status, and it is not alice.
    answer = subprocess.run(
        ["kubectl", *context, *patch], capture_output=True, text=True, check=False
    )
    denied(answer.stderr, "fraudops.io/approved-by")


def must_exist(answer: str) -> None:
    assert "promote-" in answer, answer


def test_the_pods_of_a_suspended_job_keep_their_labels(site: Site) -> None:
    """Kubernetes itself lets a suspended Job change the labels of its pods."""
    job = site.created("bob", suspend=True)
    patch = {"spec": {"template": {"metadata": {"labels": {"example.com/mine": "1"}}}}}
    denied(site.as_user("bob", "patch", "job", job, "-p", json.dumps(patch)), "cannot change")


def test_an_approval_does_not_outlive_a_suspension(site: Site) -> None:
    for way in ({"suspend": True}, {"parallelism": 0}):
        held = site.created("bob", **way)
        denied(site.annotate("alice", held, f"{APPROVED_BY}=alice"), "a suspended Job")
    approved = site.created("bob")
    assert "annotated" in site.annotate("alice", approved, f"{APPROVED_BY}=alice")
    patch = ("patch", "job", approved, "-p", '{"spec": {"suspend": true}}')
    denied(site.as_user("bob", *patch), "a suspended Job")


def test_another_user_approves_a_job_once(site: Site) -> None:
    job = site.created("bob")
    denied(site.annotate("bob", job, f"{APPROVED_BY}=bob"), "another user than bob")
    denied(site.annotate("bob", job, f"{APPROVED_BY}=alice"), "this user is bob")
    account = f"system:serviceaccount:{site.release.namespace}:default"
    site.release.kubectl(
        "create",
        "rolebinding",
        "account",
        "--clusterrole=edit",
        f"--serviceaccount={site.release.namespace}:default",
    )
    denied(site.annotate(account, job, f"{APPROVED_BY}={account}"), "no system account")
    assert "annotated" in site.annotate("alice", job, f"{APPROVED_BY}=alice")
    denied(site.annotate("alice", job, f"{APPROVED_BY}-"), "written once")
    denied(site.annotate(INSTALLER, job, f"{APPROVED_BY}={INSTALLER}"), "written once")


def test_a_user_of_the_automation_does_not_approve_a_job_without_a_name(site: Site) -> None:
    """Such a user may have made the Job."""
    job = site.job("")
    assert "created" in site.create(INSTALLER, job)
    name = job["metadata"]["name"]
    denied(site.annotate(INSTALLER, name, f"{APPROVED_BY}={INSTALLER}"), "is in it")
    assert "annotated" in site.annotate("alice", name, f"{APPROVED_BY}=alice")


async def test_the_commands_name_their_caller_and_approve(site: Site, tmp_path: Path) -> None:
    with site.kubeconfig("bob", tmp_path) as bob, site.kubeconfig("alice", tmp_path) as alice:
        cronjob = site.release.get("cronjob", "fraudops-promote")
        async with connected(site, bob) as cluster:
            job = await started(cluster, cronjob)
            name, uid = job["metadata"]["name"], job["metadata"]["uid"]
            approvals = JobApprovals(cluster, name, uid)
            with pytest.raises(RefusedError, match="no other user approved"):
                await wait_for_approval(approvals, 0.5, SystemClock(), print)
            refused = fraudops(bob, site, "approve", name, "--yes")
            assert (refused.returncode, "another user must" in refused.stderr) == (65, True)
            assert fraudops(alice, site, "approve", name, "--yes").returncode == 0
            assert await wait_for_approval(approvals, 30, SystemClock(), print) == "alice"
        again = fraudops(alice, site, "approve", name, "--yes")
        assert (again.returncode, "already approved, by alice" in again.stderr) == (65, True)


@asynccontextmanager
async def connected(site: Site, kubeconfig: Path) -> AsyncIterator[Cluster]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("KUBECONFIG", str(kubeconfig))
        async with Cluster.connect(site.release.namespace) as cluster:
            yield cluster


async def started(cluster: Cluster, cronjob: Object) -> Object:
    """Create a Job as `promote --on-cluster` does."""
    spec = JobSpec("promote", ["--version", "2"], requested_by=await caller(cluster))
    job = job_of(cronjob, new_name("fraudops", "promote"), spec)
    return await cluster.call("POST", cluster.path("batch/v1", "jobs"), job)


def fraudops(kubeconfig: Path, site: Site, *arguments: str) -> "subprocess.CompletedProcess[str]":
    release = Release(site.release.context, kubeconfig, namespace=site.release.namespace)
    return release.fraudops(*arguments, check=False)


def test_only_a_named_user_changes_a_cronjob_that_promotes(site: Site) -> None:
    """Its Jobs are the controller's, so another author could approve them alone."""
    denied(changed_cronjob(site, "bob"), "bob is not in promotion.policy.automation")
    mine = site.release.get("cronjob", "fraudops-promote")
    mine["metadata"] = {"name": "mine"}
    denied(site.create("bob", mine), "bob is not")
    assert "created" in site.create(INSTALLER, mine)


def test_the_jobs_of_a_cronjob_run_as_automation(site: Site) -> None:
    patch = ("patch", "cronjob", "fraudops-promote", "-p")
    scheduled = {"spec": {"suspend": False, "schedule": "* * * * *"}}
    assert "patched" in site.as_user(INSTALLER, *patch, json.dumps(scheduled))

    def its_job() -> str:
        jobs = site.release.get("jobs", "-l", "app.kubernetes.io/component=promote")["items"]
        # `kubectl create job --from` names the CronJob as the owner too.
        mine = [job for job in jobs if SCHEDULED in job["metadata"].get("annotations", {})]
        assert mine, site.as_user("alice", "get", "events")
        name: str = mine[0]["metadata"]["annotations"][REQUESTED_BY]
        label = f"batch.kubernetes.io/job-name={mine[0]['metadata']['name']}"
        pods = site.release.get("pods", "-l", label)["items"]
        assert pods[0]["metadata"]["annotations"][REQUESTED_BY] == name
        return name

    requester = requester_of(eventually(its_job, 120, 1.0), policy=True, user="no user")
    assert (requester.name, requester.actor) == ("automation", CRONJOB_CONTROLLER)
    assert requester.authenticated
    assert "patched" in site.as_user(INSTALLER, *patch, '{"spec": {"suspend": true}}')


def test_the_first_model_needs_no_name_of_an_installer(site: Site) -> None:
    """`helm install` creates this Job. Another author could approve it alone."""
    job = site.job("")
    main = job["spec"]["template"]["spec"]["containers"][0]
    main["command"] = ["python", "-m", "jobs.promote", "jobs.install.first_model"]
    denied(site.create("bob", job), "must be bob")
    main["command"] = ["python", "-m", "jobs.install.first_model"]
    fetch = main | {"name": "fetch", "command": ["python", "-m", "jobs.promote"]}
    job["spec"]["template"]["spec"]["initContainers"] = [fetch]
    denied(site.create("bob", job), "must be bob")
    fetch["command"] = ["python", "-m", "jobs.data", "fetch"]
    denied(site.create("bob", job), "must be bob")
    assert "created" in site.create(INSTALLER, job)
