"""Access rules of the chart: network policies, and the paths of an ingress."""

from typing import Any

import pytest

from services.inference.http.routes import ROUTES
from tests.chart.rendering import (
    EVERYTHING,
    ROOT,
    Manifest,
    Variant,
    kinds,
    named,
    pods,
    render,
)

PAGE = ROOT / "docs/operations/network.md"
# The columns of the page's table, with the word of the label.
COLUMNS = {
    "MLflow": "mlflow",
    "PostgreSQL": "postgresql",
    "admin port": "admin",
    "public port": "inference",
    "Kubernetes API": "api",
    "HTTPS": "https",
}
EVERY_JOB = Variant(
    settings=(
        *("environment=development", "bootstrap.enabled=true", "data.source=volume"),
        *("backup.enabled=true", "backup.existingClaim=backups"),
    )
)
PUBLIC = [
    *sorted({route.path for route in ROUTES if route.port != "admin"}),
    "/v2/",
]
PRIVATE = [
    *sorted({route.path for route in ROUTES if route.port == "admin"}),
    "/",
    "/predict/other",
    "/metrics/",
    "/reloadx",
    "/v2x",
]


def matches(path: str, kind: str, requested: str) -> bool:
    """Match a path as Ingress and Gateway API do; Prefix compares whole segments."""
    if kind == "Exact":
        return requested == path
    return requested == path.rstrip("/") or requested.startswith(path.rstrip("/") + "/")


def ingress_paths(manifests: list[Manifest]) -> list[tuple[str, str]]:
    paths = named(manifests, "Ingress", "fraudops-inference")["spec"]["rules"][0]["http"]["paths"]
    assert {path["backend"]["service"]["name"] for path in paths} == {"fraudops-inference"}
    return [(path["path"], path["pathType"]) for path in paths]


def route_paths(manifests: list[Manifest]) -> list[tuple[str, str]]:
    rules = named(manifests, "HTTPRoute", "fraudops-inference")["spec"]["rules"]
    return [
        (match["path"]["value"], match["path"]["type"].removeprefix("Path"))
        for rule in rules
        for match in rule["matches"]
    ]


@pytest.mark.parametrize("paths", [ingress_paths, route_paths])
def test_only_the_public_calls_pass_an_ingress(paths: Any) -> None:
    listed = paths(render(Variant(EVERYTHING.files, ("httpRoute.docs=true",))))
    passing = [
        call
        for call in (*PUBLIC, *PRIVATE)
        if any(matches(path, kind, call) for path, kind in listed)
    ]
    assert passing == PUBLIC
    undocumented = paths(
        render(Variant(EVERYTHING.files, ("httpRoute.docs=false", "ingress.docs=false")))
    )
    assert not any(matches(path, kind, "/docs") for path, kind in undocumented)


def test_the_public_service_has_no_admin_port() -> None:
    services = {
        service["metadata"]["name"]: [port["targetPort"] for port in service["spec"]["ports"]]
        for service in kinds(render(), "Service")
    }
    assert services["fraudops-inference"] == ["http"]
    assert services["fraudops-inference-admin"] == ["admin"]


def policies(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [policy["spec"] for policy in kinds(manifests, "NetworkPolicy")]


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def test_every_pod_is_denied_all_traffic_that_no_policy_allows(manifests: list[Manifest]) -> None:
    deny = named(manifests, "NetworkPolicy", "fraudops-default-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny
    assert {port["port"] for rule in deny["egress"] for port in rule["ports"]} == {53}
    for owner, template in pods(manifests):
        assert selects(deny["podSelector"], template["metadata"]["labels"]), owner


def reachable(
    manifests: list[Manifest], client: dict[str, str], server: dict[str, str], port: int
) -> bool:
    """Return whether one pod of the release may connect to another.

    That needs an egress rule for the client and an ingress rule for the server.
    """
    egress_rules = [
        rule
        for spec in policies(manifests)
        if selects(spec["podSelector"], client)
        for rule in spec.get("egress", [])
    ]
    out = any(
        peer.get("podSelector") and selects(peer["podSelector"], server) and opens_port(rule, port)
        for rule in egress_rules
        for peer in rule.get("to", [])
    )
    ingress_rules = [
        rule
        for spec in policies(manifests)
        if selects(spec["podSelector"], server)
        for rule in spec.get("ingress", [])
    ]
    return out and any(
        set(peer) == {"podSelector"}
        and selects(peer["podSelector"], client)
        and opens_port(rule, port)
        for rule in ingress_rules
        for peer in rule.get("from", [])
    )


def opens_port(rule: dict[str, Any], port: int) -> bool:
    return port in {entry["port"] for entry in rule["ports"]}


def allowed_by_the_page() -> dict[str, set[tuple[str, str]]]:
    """Return the pairs of component and target in the table of the page, by their cells."""
    section = PAGE.read_text().partition("## Who may talk to whom")[2].partition("\n\n(")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    head, _, *body = rows
    assert head[1:] == list(COLUMNS)
    found: dict[str, set[tuple[str, str]]] = {}
    for component, *cells in body:
        for column, cell in zip(COLUMNS, cells, strict=True):
            found.setdefault(cell, set()).add((component.strip("`"), COLUMNS[column]))
    return found


def labels_by_component(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    found = [template["metadata"]["labels"] for _, template in pods(manifests)]
    return {labels["app.kubernetes.io/component"]: labels for labels in found}


def labelled(labels: dict[str, dict[str, str]], way: str) -> set[tuple[str, str]]:
    label = f"fraudops.io/access-{way}"
    return {(client, way) for client, own in labels.items() if own.get(label) == "true"}


def test_the_network_policies_allow_exactly_these_connections() -> None:
    manifests = render(EVERY_JOB)
    labels = labels_by_component(manifests)
    targets = {"postgresql": 5432, "mlflow": 5000, "inference": 8000, "admin": 8001}
    allowed = {
        (client, target)
        for client, own in labels.items()
        for target, port in targets.items()
        if reachable(manifests, own, labels["inference" if target == "admin" else target], port)
    }
    page = allowed_by_the_page()
    assert allowed | labelled(labels, "api") == page["yes"]
    # Every component is in the table, also one without a right.
    assert {client for pairs in page.values() for client, _ in pairs} == set(labels)


def test_only_what_fetches_has_the_way_of_https() -> None:
    page, labels = allowed_by_the_page(), labels_by_component(render(EVERYTHING))
    assert labelled(labels, "https") == page["with S3"] | page["with `data.url`"]
    assert labelled(labels_by_component(render(EVERY_JOB)), "https") == set()


def test_only_pods_that_need_it_may_connect_out_of_the_namespace() -> None:
    manifests = render(EVERYTHING)
    for spec in policies(manifests):
        for rule in spec.get("egress", []):
            for peer in rule.get("to", []):
                if "ipBlock" in peer:
                    assert any(
                        key.startswith("fraudops.io/access-")
                        for key in spec["podSelector"]["matchLabels"]
                    )
    outside = {
        owner
        for owner, template in pods(manifests)
        if template["metadata"]["labels"].get("fraudops.io/access-https") == "true"
    }
    assert {owner.split("-")[1] for owner in outside} == {
        "mlflow",
        "train",
        "validate",
        "pipeline",
        "bootstrap",
    }


def namespaces(*settings: str) -> set[str]:
    """Return the namespaces from which the network policies allow connections."""
    peers = [
        peer
        for spec in policies(render(Variant(settings=settings)))
        for rule in spec.get("ingress", [])
        for peer in rule["from"]
    ]
    return {
        peer["namespaceSelector"]["matchLabels"].get("kubernetes.io/metadata.name", "labelled")
        for peer in peers
        if "namespaceSelector" in peer
    }


def test_an_ingress_and_a_prometheus_may_connect_only_if_they_are_enabled() -> None:
    assert namespaces() == {"labelled"}
    assert namespaces("ingress.enabled=true") == {"labelled", "traefik"}
    assert namespaces("serviceMonitor.enabled=true") == {"labelled", "monitoring"}


def test_a_rule_without_peers_is_closed_and_not_open_to_all(manifests: list[Manifest]) -> None:
    closed = render(Variant(settings=("networkPolicy.apiServer.cidrs=null",)))
    for spec in (*policies(manifests), *policies(closed)):
        rules = [*spec.get("egress", []), *spec.get("ingress", [])]
        assert all(rule.get("to") or rule.get("from") or opens_port(rule, 53) for rule in rules)


def sources(*settings: str) -> list[str]:
    """Return the address ranges that may reach the public port."""
    manifests = render(Variant(settings=settings))
    policy = named(manifests, "NetworkPolicy", "fraudops-to-inference")
    peers = policy["spec"]["ingress"][0]["from"]
    return [peer["ipBlock"]["cidr"] for peer in peers if "ipBlock" in peer]


def test_only_a_load_balancer_or_node_port_admits_addresses() -> None:
    admitted = "networkPolicy.loadBalancer.cidrs={10.0.0.0/8}"
    balancer = "inference.service.type=LoadBalancer"
    assert sources(admitted) == []
    assert sources(admitted, balancer) == ["10.0.0.0/8"]
    assert sources(admitted, "inference.service.type=NodePort") == ["10.0.0.0/8"]
    ranges = "inference.service.loadBalancerSourceRanges={192.0.2.0/24}"
    assert sources(balancer, ranges) == ["192.0.2.0/24"]
    assert sources(balancer, ranges, admitted) == ["10.0.0.0/8"]


def test_the_network_can_be_left_open() -> None:
    assert kinds(render(Variant(settings=("networkPolicy.enabled=false",))), "NetworkPolicy") == []
