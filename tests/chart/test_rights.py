"""The rights of every account are those of the table in docs/operations/rights.md."""

import json
import re
from typing import Any

import pytest

from jobs.reconcile import ALIVE, PASS_SECONDS
from tests.chart.rendering import (
    EVERYTHING,
    NAMESPACE,
    ROOT,
    VARIANTS,
    Manifest,
    Variant,
    helm_template,
    kinds,
    named,
    notes,
    refusal,
    render,
)
from tests.chart.rights_table import APPROVAL, OWN_SECRETS, POLICY, Right, named_in, rows, table

GROUPS = {
    "configmaps": "",
    "deployments": "apps",
    "events": "",
    "jobs": "batch",
    "leases": "coordination.k8s.io",
    "persistentvolumeclaims": "",
    "pods": "",
    "secrets": "",
}
POLICIES = "ValidatingAdmissionPolicy"
EXACT = (
    Variant(),
    Variant(settings=("data.source=volume",)),
    Variant(settings=OWN_SECRETS),
    Variant(settings=OWN_SECRETS[:2]),
    Variant(settings=APPROVAL),
    Variant(settings=("promotion.strategies={broadcast}",)),
    Variant(settings=("promotion.podDeletion=none",)),
    Variant(settings=("backup.enabled=true", "backup.existingClaim=backups")),
    Variant(settings=("promotion.podDeletion=inferencePods",)),
    Variant(settings=(*APPROVAL, "promotion.strategies={broadcast}", "promotion.podDeletion=none")),
)


def rights(manifests: list[Manifest]) -> set[Right]:
    """Return the rights that the Roles give to the accounts to which they are bound."""
    found: set[Right] = set()
    for binding in kinds(manifests, "RoleBinding"):
        assert binding["roleRef"]["kind"] == "Role"
        role = named(manifests, "Role", binding["roleRef"]["name"])
        found |= {
            (subject["name"], verb, resource, name)
            for subject in binding["subjects"]
            for rule in role["rules"]
            for resource in checked(rule)
            for verb in rule["verbs"]
            for name in rule.get("resourceNames", [""])
        }
    return found


def checked(rule: dict[str, Any]) -> list[str]:
    """Return the resources of a rule whose API group is theirs."""
    resources = [str(resource) for resource in rule["resources"]]
    assert {GROUPS[resource] for resource in resources} == set(rule["apiGroups"]), rule
    return resources


@pytest.mark.parametrize("variant", EXACT, ids=lambda variant: ",".join(variant.settings))
def test_every_account_has_exactly_the_rights_of_the_page(variant: Variant) -> None:
    assert rights(render(variant)) == table(variant)


def test_no_variant_gives_an_account_more(manifests: list[Manifest]) -> None:
    assert rights(manifests) <= table(None)
    assert kinds(manifests, "ClusterRole", "ClusterRoleBinding") == []


def test_the_page_names_every_account() -> None:
    accounts = {
        account["metadata"]["name"]
        for variant in VARIANTS.values()
        for account in kinds(render(variant), "ServiceAccount")
    }
    assert {named_in(row[0]) for row in rows()} == accounts | {"default"}


def test_no_account_may_create_jobs_or_use_a_wildcard() -> None:
    for account, verb, resource, _ in table(None):
        assert (verb, resource) != ("create", "jobs"), account
        assert "*" not in verb + resource
        assert verb not in ("deletecollection", "escalate", "bind", "impersonate")


@pytest.mark.parametrize("manner", ["inferencePods", "anyPod", "none"])
@pytest.mark.parametrize("policy", [True, False])
def test_only_a_policy_limits_which_pods_a_promotion_deletes(manner: str, policy: bool) -> None:
    settings = (
        f"promotion.podDeletion={manner}",
        f"promotion.policy.enabled={str(policy).lower()}",
    )
    manifests = render(Variant(settings=settings))
    policies = policies_of(manifests)
    assert ("deletion" in policies) is (manner == "inferencePods")
    may = ("fraudops-promotion", "delete", "pods", "") in rights(manifests)
    assert may is (manner != "none")


def policies_of(manifests: list[Manifest]) -> set[str]:
    """Return the policies that are bound, by the last part of their names."""
    bound = {each["spec"]["policyName"] for each in kinds(manifests, f"{POLICIES}Binding")}
    assert bound == {each["metadata"]["name"] for each in kinds(manifests, POLICIES)}
    return {name.removeprefix(f"{NAMESPACE}.fraudops-promotion-") for name in bound}


def test_the_default_limits_the_deletion_where_policies_are_on() -> None:
    assert policies_of(render()) == set()
    held = render(Variant(settings=(POLICY,)))
    assert policies_of(held) == {"jobs", "pods", "reconciler", "rollout", "deletion"}
    broadcast = Variant(settings=(POLICY, "promotion.strategies={broadcast}"))
    assert policies_of(render(broadcast)) == {"jobs", "pods", "reconciler", "deletion"}


def test_policies_that_an_administrator_applies_are_not_rendered() -> None:
    elsewhere = (*APPROVAL, "promotion.policy.install=false")
    held, other = render(Variant(settings=APPROVAL)), render(Variant(settings=elsewhere))
    assert kinds(other, POLICIES, f"{POLICIES}Binding") == []
    assert other == [each for each in held if not each["kind"].startswith(POLICIES)]
    # The command of the page shows those files alone.
    assert {
        path.name for path in (ROOT / "charts/fraudops/templates/promotion").glob("*polic*")
    } == {
        "_policy.tpl",
        "policy-bindings.yaml",
        *(f"{name}-policy.yaml" for name in ("job", "pod", "cronjob")),
        *(f"{name}-policy.yaml" for name in ("reconciler", "rollout", "deletion")),
    }


def test_a_policy_says_what_the_api_server_would_add() -> None:
    """A GitOps tool would otherwise see a difference in each comparison."""
    manifests = render(Variant(settings=APPROVAL))
    for policy in kinds(manifests, POLICIES):
        constraints = policy["spec"]["matchConstraints"]
        assert {key: constraints[key] for key in constraints if key != "resourceRules"} == {
            "matchPolicy": "Equivalent",
            "namespaceSelector": {},
            "objectSelector": {},
        }
        assert {rule["scope"] for rule in constraints["resourceRules"]} == {"*"}


def test_the_policies_name_the_accounts_of_the_values() -> None:
    manifests = render(
        Variant(
            settings=(
                POLICY,
                "promotion.serviceAccount.name=promoter",
                "jobs.reconcile.serviceAccount.name=follower",
                "jobs.image.registry=r.example.com",
            )
        )
    )

    def conditions(name: str) -> str:
        policy = named(manifests, POLICIES, f"{NAMESPACE}.fraudops-promotion-{name}")
        return str(policy["spec"])

    user = f"system:serviceaccount:{NAMESPACE}:"
    assert f'"{user}promoter"' in conditions("deletion")
    assert f'"{user}follower"' not in conditions("deletion")
    assert f'["{user}promoter","{user}follower"]' in conditions("rollout")
    assert f'!= "{user}follower"' in conditions("rollout")
    assert '== "follower"' in conditions("reconciler")
    assert '"r.example.com/fraudops-jobs" + end' in conditions("reconciler")


def test_a_rollout_changes_no_metadata_of_the_pods_but_annotations() -> None:
    """Kubernetes copies the finalizers of the template to every pod, which then never ends."""
    manifests = render(Variant(settings=(POLICY,)))
    spec = named(manifests, POLICIES, f"{NAMESPACE}.fraudops-promotion-rollout")["spec"]
    compared = spec["validations"][0]["expression"]
    metadata = "spec.template.?metadata.?"
    for field in ("labels", "finalizers", "ownerReferences", "generateName", "name", "namespace"):
        assert f"object.{metadata}{field} == oldObject.{metadata}{field} &&" in compared


def test_the_reconcilers_pod_is_one_that_its_policy_accepts() -> None:
    manifests = render(Variant(EVERYTHING.files, APPROVAL))
    policy = named(manifests, POLICIES, f"{NAMESPACE}.fraudops-promotion-reconciler")["spec"]
    text = " ".join(rule["expression"] for rule in policy["validations"])
    spec = named(manifests, "Deployment", "fraudops-reconcile")["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert "initContainers" not in pod
    assert container["command"] == ["python", "-m", "jobs.reconcile"]
    probe = container["livenessProbe"]["exec"]["command"]
    (accepted,) = re.findall(r"command\.orValue\(\[\]\) == (\[\"sh\".*?\"\])\)", text)
    assert json.loads(accepted) == probe
    assert {"startupProbe", "readinessProbe", "lifecycle"} & container.keys() == set()
    own = [each["name"] for each in container["env"]]
    refused = [name for name in own if name.startswith(("FRAUDOPS_", "PYTHON"))]
    assert all(f'"{name}"' in text for name in refused)
    assert [source["configMapRef"]["name"] for source in container["envFrom"]] == ["fraudops-jobs"]
    repository = container["image"].partition("@")[0].rsplit(":", 1)[0]
    assert f'"{repository}" + end' in text


def test_one_reconciler_runs_at_a_time_and_its_probe_allows_a_whole_pass() -> None:
    for settings, every in (((), 60), (("jobs.reconcile.everySeconds=600",), 600)):
        spec = named(render(Variant(settings=settings)), "Deployment", "fraudops-reconcile")["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
        (container,) = spec["template"]["spec"]["containers"]
        assert container["args"] == ["--watch", "--every", str(every)]
        (seconds,) = re.findall(r"-(\d+) seconds", container["livenessProbe"]["exec"]["command"][2])
        assert int(seconds) > every + PASS_SECONDS
        assert f"/tmp/fraudops/run/{ALIVE} " in container["livenessProbe"]["exec"]["command"][2]


@pytest.mark.parametrize("version", ["1.29.14", "1.30.0-gke.1"])
def test_a_limited_deletion_needs_kubernetes_1_30(version: str) -> None:
    limited = Variant(settings=("promotion.podDeletion=inferencePods",))
    done = helm_template(limited, kubernetes=version)
    assert (done.returncode == 0) is version.startswith("1.30"), done.stderr
    assert done.returncode == 0 or "set promotion.podDeletion=none" in done.stderr


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ("promotion: {strategies: []}", "/promotion/strategies"),
        ("promotion: {strategies: [rollout]}", "/promotion/strategies"),
        ("promotion: {strategies: [broadcast, blue]}", "/promotion/strategies/1"),
        ("promotion: {podDeletion: off}", "/promotion/podDeletion"),
        ("jobs: {reconcile: {everySeconds: 1}}", "/jobs/reconcile/everySeconds"),
        ("jobs: {reconcile: {serviceAccount: {name: default}}}", "jobs.reconcile.serviceAccount"),
        (
            "promotion: {policy: {enabled: true}}\n"
            "jobs: {reconcile: {pod: {extraInitContainers: [{name: a, image: b}]}}}",
            "from jobs.reconcile.pod",
        ),
    ],
)
def test_a_value_that_would_give_other_rights_is_refused(values: str, word: str) -> None:
    assert word in refusal(values=values)


def test_the_notes_warn_of_wide_rights_and_of_values_that_are_ignored() -> None:
    wide = notes("jobs.reconcile.schedule=* * * * *", "jobs.reconcile.args={--json}")
    assert "may delete every pod of the namespace" in wide
    both = "accounts of promotions and of the reconciler may change the Deployment of the inference"
    assert both in wide
    assert "ignores jobs.reconcile.schedule, jobs.reconcile.args. Remove" in wide
    narrow = notes("promotion.podDeletion=anyPod", "promotion.strategies={broadcast}")
    for words in ("may delete", "may change", "ignores"):
        assert words not in narrow
    elsewhere = "until an administrator of the cluster applies the policies"
    limited = "promotion.podDeletion=inferencePods"
    assert elsewhere in notes(limited, "promotion.policy.install=false")
    assert elsewhere not in notes(limited)
    held = notes(POLICY)
    assert "may delete" not in held
    assert "may change" not in held
