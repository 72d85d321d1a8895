"""security.profile: what strict turns on, what it refuses, and which exception allows it."""

import re
import subprocess

import pytest

from tests.chart.combinations_profile import PRODUCTION
from tests.chart.rendering import (
    CHART,
    NAMESPACE,
    ROOT,
    VARIANTS,
    Variant,
    environment,
    helm_template,
    kinds,
    named,
    notes,
    refusal,
    render,
    tool,
)
from tests.chart.values_schema import SCHEMA

PAGE = ROOT / "docs" / "operations" / "security-profile.md"
EXCEPTIONS = SCHEMA["properties"]["security"]["properties"]["exceptions"]["items"]["enum"]
TLS = "ingress: {enabled: true, tlsSecret: fraud-tls"
BALANCER = "inference: {service: {type: LoadBalancer, loadBalancerSourceRanges: [203.0.113.0/24]}}"
# Values that strict refuses, the exception that allows each, and words of the refusal.
REFUSED = {
    "promotion: {podDeletion: anyPod}": ("anyPodDeletion", "every pod of the namespace"),
    "postgresql: {enabled: true, existingSecret: ''}": ("bundledPostgresql", "without backups"),
    "clientAuth: {mode: disabled}": ("openClients", "clientAuth.mode is disabled: every caller"),
    "clientAuth: {mode: optional}": ("openClients", "clientAuth.mode is optional: every caller"),
    "networkPolicy: {enabled: false}": ("openEgress", "networkPolicy.enabled is false"),
    "networkPolicy: {dns: {peers: []}}": ("openEgress", "networkPolicy.dns: pods may"),
    "networkPolicy: {apiServer: {cidrs: ['::/0']}}": ("openEgress", "networkPolicy.apiServer"),
    "networkPolicy: {postgresql: {cidrs: [1.2.3.4/0]}}": ("openEgress", "networkPolicy.postgresql"),
    "networkPolicy: {extraEgress: {jobs: [{ports: [{port: 1}]}]}}": (
        "openEgress",
        "networkPolicy.extraEgress.jobs",
    ),
    "networkPolicy: {apiServer: {cidrs: [0.0.0.0/1, 128.0.0.0/1]}}": ("openEgress", "apiServer"),
    "networkPolicy: {dns: {peers: [{ipBlock: {cidr: '8000::/07'}}]}}": ("openEgress", "Policy.dns"),
    "mlflow: {enabled: true, artifacts: {type: s3, s3: {destination: 's3://a/b'}}}\n"
    "networkPolicy: {https: {cidrs: [64.0.0.0/2]}}": ("openEgress", "networkPolicy.https"),
    "networkPolicy: {extraEgress: {all: [{to: [{ipBlock: {cidr: 0.0.0.0/3}}]}]}}": (
        "openEgress",
        "networkPolicy.extraEgress.all: pods may",
    ),
    "networkPolicy: {extraEgress: {all: [{to: [{namespaceSelector: {}}]}]}}": (
        "openEgress",
        "networkPolicy.extraEgress.all: pods may",
    ),
    "ingress: {enabled: true}": ("plainIngress", "ingress.tlsSecret is empty"),
    "promotion: {policy: {install: false}}": ("policyElsewhere", "administrators"),
    f"{TLS}, docs: true}}": ("publicDocs", "ingress.docs: everyone would see /docs"),
    "httpRoute: {enabled: true, parentRefs: [{name: a}], docs: true}": (
        "publicDocs",
        "httpRoute.docs",
    ),
    "signing: {waivers: allowed}": ("waivers", "Set it to forbidden"),
}


def excepting(*names: str) -> str:
    return f"\nsecurity: {{exceptions: [{', '.join(names)}]}}"


@pytest.mark.parametrize("values", REFUSED)
def test_strict_refuses_these_values_unless_the_exception_is_named(values: str) -> None:
    exception, words = REFUSED[values]
    message = refusal(files=PRODUCTION, values=values)
    assert "security.profile: strict refuses" in message
    assert words in message
    assert f"(exception: {exception})" in message
    done = helm_template(Variant(PRODUCTION, values=values + excepting(exception)))
    assert done.returncode == 0, done.stderr


def test_every_exception_is_tested_and_on_the_page() -> None:
    assert {exception for exception, _ in REFUSED.values()} == set(EXCEPTIONS)
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows == EXCEPTIONS


def test_a_public_service_needs_both_of_its_exceptions() -> None:
    """Its port shows every page, and the chart cannot hide one."""
    message = refusal(files=PRODUCTION, values=BALANCER)
    assert "in plain text. Use an Ingress" in message
    assert "everyone would see /docs, which only" in message
    assert "(exception: plainIngress)" not in refusal(
        files=PRODUCTION, values=BALANCER + excepting("plainIngress")
    )
    node_port = BALANCER.replace("LoadBalancer, ", "NodePort, nodePort: 30080, ").replace(
        "loadBalancerSourceRanges: [203.0.113.0/24]", "externalTrafficPolicy: Local"
    )
    assert "inference.service.type is NodePort" in refusal(files=PRODUCTION, values=node_port)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("clients", "clients: [{ipBlock: {cidr: 0.0.0.0/0}}]"),
        ("clients", "clients: [{podSelector: {}}, {ipBlock: {cidr: '::/1'}}]"),
        ("extraIngress.all", "extraIngress: {all: [{from: [{ipBlock: {cidr: 128.0.0.0/1}}]}]}"),
        ("extraIngress.inference", "extraIngress: {inference: [{ports: [{port: 8000}]}]}"),
    ],
)
def test_any_address_as_a_client_needs_both_exceptions_too(path: str, value: str) -> None:
    values = f"networkPolicy: {{{value}}}"
    message = refusal(files=PRODUCTION, values=values)
    for words, exception in (("may call", "plainIngress"), ("would see /docs", "publicDocs")):
        (line,) = [line for line in message.splitlines() if f"(exception: {exception})" in line]
        assert f"networkPolicy.{path}: any address" in line
        assert words in line
    done = helm_template(
        Variant(PRODUCTION, values=values + excepting("plainIngress", "publicDocs"))
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "value",
    [
        "apiServer: {cidrs: [10.0.0.0/8, 'fd00::/8', 17.0.0.0/17]}",
        "dns: {peers: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]}",
        "clients: [{ipBlock: {cidr: 10.0.0.0/8}}]",
        "clients: [{namespaceSelector: {}}]",
        "extraIngress: {mlflow: [{from: [{ipBlock: {cidr: 10.0.0.0/10}}]}]}",
    ],
)
def test_strict_accepts_a_range_of_the_site(value: str) -> None:
    done = helm_template(Variant(PRODUCTION, values=f"networkPolicy: {{{value}}}"))
    assert done.returncode == 0, done.stderr


def test_one_message_names_everything_that_strict_refuses() -> None:
    message = refusal("security.profile=strict")
    for exception in ("bundledPostgresql", "openEgress", "waivers"):
        assert f"(exception: {exception})" in message


def test_an_exception_that_nothing_needs_is_refused() -> None:
    message = refusal(files=PRODUCTION, values=excepting("waivers"))
    assert "nothing needs waivers" in message
    assert "the profile is default" in refusal("security.exceptions={waivers}")
    assert "/security/exceptions/0" in refusal("security.exceptions={everything}")


@pytest.mark.parametrize(
    "url",
    ["https://a/b?sig=hunter2", "https://a/b?apikey=hunter2", "https://me:hunter2@a/b"],
)
def test_no_exception_allows_a_secret_in_a_url(url: str) -> None:
    source = f"data: {{source: url, url: '{url}', sha256: '{'0' * 64}'}}"
    message = refusal(files=PRODUCTION, values=source)
    assert "data.existingSecret" in message
    assert "hunter2" not in message
    assert helm_template(Variant(values=source)).returncode == 0


@pytest.mark.parametrize("version", ["1.29.14", "1.30.0"])
def test_strict_needs_kubernetes_1_30(version: str) -> None:
    done = helm_template(Variant(PRODUCTION), kubernetes=version)
    assert (done.returncode == 0) is (version == "1.30.0"), done.stderr
    if version != "1.30.0":
        assert "security.profile: strict needs Kubernetes 1.30" in done.stderr


def test_strict_turns_the_policies_of_promotions_on() -> None:
    manifests = render(Variant(PRODUCTION))
    policies = {
        policy["metadata"]["name"].removeprefix(f"{NAMESPACE}.fraudops-promotion-")
        for policy in kinds(manifests, "ValidatingAdmissionPolicy")
    }
    assert policies >= {"jobs", "pods"}
    bindings = kinds(manifests, "ValidatingAdmissionPolicyBinding")
    assert len(bindings) == len(policies)
    settings = named(manifests, "ConfigMap", "fraudops-jobs")["data"]
    assert settings["FRAUDOPS_PROMOTION__AUTHENTICATED"] == "true"
    off = Variant(PRODUCTION, ("promotion.policy.enabled=false",))
    assert kinds(render(off), "ValidatingAdmissionPolicy")


def test_without_the_right_to_install_policies_everything_else_stays() -> None:
    elsewhere = excepting("policyElsewhere") + "\npromotion: {policy: {install: false}}"
    without, strict = render(Variant(PRODUCTION, values=elsewhere)), render(Variant(PRODUCTION))
    policies = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    assert kinds(without, *policies) == []
    assert without == [each for each in strict if each["kind"] not in policies]


def test_the_pages_command_prints_every_policy_for_the_administrators() -> None:
    (pattern,) = re.findall(r"--show-only '([^']+)'", PAGE.read_text())
    command = [tool("helm"), "template", "fraudops", str(CHART), "--show-only", pattern]
    command += ["--namespace", NAMESPACE, "--values", str(ROOT / PRODUCTION[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^kind: (\w+)", done.stdout, re.MULTILINE)
    policies = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    assert sorted(shown) == sorted(
        each["kind"] for each in kinds(render(Variant(PRODUCTION)), *policies)
    )


@pytest.mark.parametrize(
    ("name", "ready"), [("default", "true"), ("quickstart", "false"), ("strict", "true")]
)
def test_pods_are_ready_without_a_model_unless_a_job_promotes_one(name: str, ready: str) -> None:
    manifests = render(VARIANTS.get(name, Variant(PRODUCTION)))
    pod = named(manifests, "Deployment", "fraudops-inference")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert environment(manifests, container)["FRAUDOPS_READY_WITHOUT_MODEL"] == ready
    # An old container that starts again during an upgrade would refuse an unknown setting.
    settings = named(manifests, "ConfigMap", "fraudops-inference")["data"]
    assert "FRAUDOPS_READY_WITHOUT_MODEL" not in settings


def test_the_notes_say_how_the_first_model_comes_and_what_is_open() -> None:
    default = notes()
    assert "the pods are ready and answer predictions with 503" in default
    assert "strict adds the policies for promotions" in default
    assert "It would refuse bundledPostgresql, openClients, openEgress, waivers." in default
    assert "clientAuth.mode is disabled: clients need no key" in default
    assert "so the pods are not ready" in notes("inference.readyWithoutModel=false")
    strict = notes("signing.waivers=allowed", "security.exceptions={waivers}", files=PRODUCTION)
    assert "fraudops pipeline --on-cluster --namespace fraud --release fraudops" in strict
    assert "create job first-model" not in strict
    assert "security.exceptions allows waivers: signing.waivers is allowed" in strict
    assert "security.profile is default" not in strict
    assert "clientAuth.mode" not in strict
    route = ("httpRoute.enabled=true", "httpRoute.parentRefs[0].name=public")
    assert "cannot see whether the Gateways" in notes(*route, files=PRODUCTION)
