"""The policies that hold the names on a promotion, as the chart renders them.

tests/cluster/test_promotion_policy.py runs them on a real API server.
"""

import json
import re
from typing import Any

import pytest

from tests.chart.extensions import nested
from tests.chart.rendering import (
    EVERYTHING,
    NAMESPACE,
    VARIANTS,
    Manifest,
    Variant,
    containers,
    documents_of,
    environment,
    helm_template,
    job_spec,
    kinds,
    named,
    pod_template,
    refusal,
    render,
    title,
)

POLICY = ("promotion.policy.enabled=true",)
APPROVAL = (
    *POLICY,
    "promotion.approval.required=true",
    "promotion.policy.automation={installer}",
)
ACCOUNT = "fraudops-promotion"
ANNOTATION = "fraudops.io/requested-by"
CONTROLLER = "system:serviceaccount:kube-system:cronjob-controller"
WITH_POLICY = ["deletion", "jobs", "pods", "reconciler", "rollout"]
KINDS = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")


def promoting(manifests: list[Manifest]) -> list[Manifest]:
    """Return the Jobs and CronJobs whose pods have the promoting account."""
    return [
        manifest
        for manifest in manifests
        if job_spec(manifest) and spec_of(manifest).get("serviceAccountName") == ACCOUNT
    ]


def spec_of(manifest: Manifest) -> dict[str, Any]:
    template = pod_template(manifest)
    assert template
    return dict(template["spec"])


@pytest.mark.parametrize("name", ["default", "quickstart", "everything", "CloudNativePG"])
def test_nothing_of_it_is_there_by_default(name: str) -> None:
    manifests = render(VARIANTS[name])
    assert kinds(manifests, *KINDS) == []
    assert ANNOTATION + ":" not in str(manifests)


@pytest.mark.parametrize(
    ("settings", "objects"),
    [(POLICY, WITH_POLICY), (APPROVAL, ["cronjobs", *WITH_POLICY])],
)
def test_each_policy_denies_in_the_releases_namespace(
    settings: tuple[str, ...], objects: list[str]
) -> None:
    manifests = render(Variant(settings=settings))
    names = [f"{NAMESPACE}.{ACCOUNT}-{what}" for what in objects]
    policies = kinds(manifests, KINDS[0])
    assert sorted(policy["metadata"]["name"] for policy in policies) == names
    for policy in policies:
        assert policy["spec"]["failurePolicy"] == "Fail"
        assert {rule["reason"] for rule in policy["spec"]["validations"]} == {"Forbidden"}
        binding = named(manifests, KINDS[1], policy["metadata"]["name"])["spec"]
        assert binding == {
            "policyName": policy["metadata"]["name"],
            "validationActions": ["Deny"],
            "matchResources": {
                "matchPolicy": "Equivalent",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}},
                "objectSelector": {},
            },
        }


def test_no_two_releases_share_the_name_of_a_policy() -> None:
    """The whole cluster shares these names, and Helm would let one release take the other's."""
    found = []
    for release, namespace in (("fraudops", "team-a"), ("a-fraudops", "team")):
        done = helm_template(Variant(settings=APPROVAL), release=release, namespace=namespace)
        assert done.returncode == 0, done.stderr
        objects = [json.loads(document) for document in documents_of(done.stdout)]
        wide = [each for each in objects if "namespace" not in each["metadata"]]
        assert {each["kind"] for each in wide} == set(KINDS)
        found.append({title(each) for each in wide})
    assert found[0] & found[1] == set()


def test_a_cronjob_that_promotes_names_its_controller_and_no_other_does() -> None:
    manifests = render(Variant(settings=POLICY))
    annotated = {}
    for manifest in kinds(manifests, "CronJob"):
        job = manifest["spec"]["jobTemplate"]
        found = [
            place.get("metadata", {}).get("annotations", {}).get(ANNOTATION)
            for place in (job, job["spec"]["template"])
        ]
        if any(found):
            annotated[title(manifest)] = found
    expected = [title(manifest) for manifest in kinds(promoting(manifests), "CronJob")]
    assert annotated == {name: [CONTROLLER, CONTROLLER] for name in expected}
    assert annotated.keys() == {"CronJob fraudops-promote", "CronJob fraudops-pipeline"}


def test_the_first_models_job_has_no_name() -> None:
    """The user who runs `helm install` creates it, and the chart does not know who that is."""
    settings = (*POLICY, "bootstrap.enabled=true", "environment=development")
    jobs = kinds(promoting(render(Variant(settings=settings))), "Job")
    assert [spec_of(job)["containers"][0]["command"][-1] for job in jobs] == [
        "jobs.install.first_model"
    ]
    assert ANNOTATION not in str(job_spec(jobs[0])["template"]["metadata"])  # type: ignore[index]


@pytest.mark.parametrize("variant", [Variant(settings=APPROVAL), EVERYTHING])
def test_every_promoting_container_is_one_that_the_policy_accepts(variant: Variant) -> None:
    manifests = render(Variant(variant.files, APPROVAL))
    jobs = named(manifests, KINDS[0], f"{NAMESPACE}.{ACCOUNT}-jobs")["spec"]["validations"]
    accepted = accepted_variables(manifests)
    for label, _, container in containers(promoting(manifests)):
        assert container["command"][:2] == ["python", "-m"], label
        assert container["command"][2].startswith("jobs."), label
        repository = container["image"].partition("@")[0].rsplit(":", 1)[0]
        assert any(f'"{repository}" + end' in rule["expression"] for rule in jobs), label
        own = {entry["name"] for entry in container.get("env", [])}
        refused = [
            name
            for name in own
            if name.startswith(("FRAUDOPS_", "PYTHON")) and f'"{name}"' not in accepted
        ]
        assert refused == [], label
        sources = [source["configMapRef"]["name"] for source in container.get("envFrom", [])]
        fetches = container["command"][2] == "jobs.data"
        assert sources == ([] if fetches else ["fraudops-jobs"]), label
        assert fetches or "FRAUDOPS_REQUESTED_BY" in own, label
        assert not {"lifecycle", "livenessProbe", "readinessProbe", "startupProbe"} & {*container}
    for manifest in promoting(manifests):
        assert len(spec_of(manifest)["containers"]) == 1
        steps = [
            (step["command"][2], step.get("args", [])[:2])
            for step in spec_of(manifest).get("initContainers", [])
        ]
        assert all(
            module in ("jobs.data", "jobs.waive")
            or (start[0] == "--step" and start[1] in ("wait", "train", "validate"))
            for module, start in steps
        ), steps


def test_no_setting_of_a_promotion_may_come_from_a_container() -> None:
    """The policy lists what a container may set. Each other setting is the ConfigMap's."""
    manifests = render(Variant(settings=APPROVAL))
    accepted = accepted_variables(manifests)
    for name in ("PROMOTION__APPROVAL_REQUIRED", "ENVIRONMENT", "SIGNING__WAIVERS", "MODEL_NAME"):
        assert f'"FRAUDOPS_{name}"' not in accepted


def accepted_variables(manifests: list[Manifest]) -> str:
    """Return the list of variables in the policy, as its text."""
    rules = named(manifests, KINDS[0], f"{NAMESPACE}.{ACCOUNT}-jobs")["spec"]["validations"]
    expression = next(rule["expression"] for rule in rules if "upperAscii" in rule["expression"])
    lists = re.findall(r"variable\.name in (\[[^]]*\])", expression)
    return "".join(lists)


def test_any_user_installs_the_first_models_job_unless_approvals_are_required() -> None:
    """A Job without a name does not say who its author is, who could approve it alone."""
    found = []
    for settings in (POLICY, APPROVAL):
        policies = render(Variant(settings=settings))
        spec = named(policies, KINDS[0], f"{NAMESPACE}.{ACCOUNT}-jobs")["spec"]
        variables = {each["name"]: each["expression"] for each in spec["variables"]}
        found.append(variables["bootstraps"].partition(" ")[0])
    assert found == ["true", "false"]


def test_the_policies_see_a_change_of_a_status_too() -> None:
    """Kubernetes accepts annotations together with a status."""
    manifests = render(Variant(settings=APPROVAL))
    for what in ("jobs", "pods"):
        spec = named(manifests, KINDS[0], f"{NAMESPACE}.{ACCOUNT}-{what}")["spec"]
        (rule,) = spec["matchConstraints"]["resourceRules"]
        assert {what, f"{what}/status"} <= set(rule["resources"])


def test_a_program_that_promotes_reads_its_requester_and_its_job_from_its_own_pod() -> None:
    manifests = render()
    reading = {
        label: environment(manifests, container)["FRAUDOPS_JOB"]
        for label, _, container in containers(manifests)
        if environment(manifests, container).get("FRAUDOPS_REQUESTED_BY") == "<fieldRef>"
    }
    assert set(reading.values()) == {"<fieldRef>"}
    assert {label.partition(",")[0] for label in reading} == {
        title(manifest) for manifest in promoting(manifests)
    }


def test_the_promoter_may_read_jobs_only_to_wait_for_an_approval() -> None:
    rules = [
        named(render(Variant(settings=settings)), "Role", ACCOUNT)["rules"]
        for settings in (POLICY, APPROVAL)
    ]
    jobs = {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]}
    assert [rule for rule in rules[1] if rule not in rules[0]] == [jobs]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (("promotion.approval.required=true",), "needs promotion.policy.enabled"),
        ((*POLICY, "promotion.approval.required=true"), "needs promotion.policy.automation"),
        (
            (*APPROVAL, "promotion.approval.expirySeconds=3600"),
            "smaller than jobs.promote.activeDeadlineSeconds",
        ),
    ],
)
def test_values_that_would_prove_nothing_are_refused(
    settings: tuple[str, ...], reason: str
) -> None:
    assert reason in refusal(*settings)


@pytest.mark.parametrize(
    "path", ["jobs", "jobs.promote.pod", "jobs.pipeline.pod", "jobs.reconcile.pod", "bootstrap.pod"]
)
@pytest.mark.parametrize(
    "name",
    ["FRAUDOPS_PROMOTION__APPROVAL_REQUIRED", "fraudops_environment", "PYTHONPATH", "PythonPath"],
)
def test_no_value_sets_what_the_policy_reserves(path: str, name: str) -> None:
    """A container's variable wins over the ConfigMap's, in any case of its letters."""
    own = json.dumps(nested(f"{path}.extraEnv", [{"name": name, "value": "x"}]))
    message = refusal(*APPROVAL, values=own)
    assert f"{path}.extraEnv: promotion.policy.enabled refuses Jobs that set {name}" in message


def test_values_add_no_name_to_the_list_of_the_policy() -> None:
    """A name in the list may be set by every user who creates a Job, to any value."""
    own = json.dumps(nested("jobs.extraEnv", [{"name": "HTTPS_PROXY", "value": "x"}]))
    with_proxy = accepted_variables(render(Variant(settings=APPROVAL, values=own)))
    assert with_proxy == accepted_variables(render(Variant(settings=APPROVAL)))
    assert "HTTPS_PROXY" not in with_proxy


@pytest.mark.parametrize("version", ["1.29.14", "1.29.14-eks-1234567", "1.30.0", "1.30.0-gke.1"])
def test_the_policy_needs_kubernetes_1_30(version: str) -> None:
    done = helm_template(Variant(settings=POLICY[:1]), kubernetes=version)
    assert (done.returncode == 0) is version.startswith("1.30"), done.stderr
    assert version.startswith("1.30") or "needs Kubernetes 1.30 or newer" in done.stderr
