"""Ways out of the release and into it: which of them are open, and the recipes of the page."""

import json
from typing import Any

import pytest

from tests.chart.rendering import (
    EVERYTHING,
    ROOT,
    Manifest,
    Variant,
    kinds,
    named,
    notes,
    refusal,
    render,
)
from tests.support.documents import blocks

PAGE = ROOT / "docs/operations/network.md"
OBJECT = """
apiVersion: v1
kind: ConfigMap
metadata: {name: shown}
data: {open: {{ include "fraudops.openWays" . | quote }}}
"""
DNS: dict[str, Any] = {"dns": {"peers": [{"podSelector": {}}]}}
CLOSED: dict[str, Any] = DNS | {
    way: {"cidrs": ["192.0.2.0/24"]} for way in ("apiServer", "postgresql", "mlflow", "https")
}
OWN: dict[str, Any] = {
    "postgresql": {"enabled": False, "existingSecret": "db"},
    "mlflow": {"enabled": False, "url": "https://mlflow.example.com"},
    "data": {"source": "url", "url": "https://a.example.com/b", "sha256": "0" * 64},
}


def open_ways(policy: dict[str, Any], **values: Any) -> set[str]:
    """Return the ways of `networkPolicy` that the chart finds open."""
    text = json.dumps(values | {"networkPolicy": policy, "extraObjects": [OBJECT]})
    shown = named(render(Variant(values=text)), "ConfigMap", "shown")
    return {path.removeprefix("networkPolicy.") for path in json.loads(shown["data"]["open"])}


def test_only_ways_that_are_rendered_are_open() -> None:
    assert open_ways({}) == {"dns", "apiServer"}
    assert open_ways({}, **OWN) == {"dns", "apiServer", "postgresql", "mlflow", "https"}
    assert open_ways(CLOSED, **OWN) == set()
    # No policy is rendered.
    assert open_ways({"enabled": False}, **OWN) == set()


def test_the_service_has_the_way_of_https_only_to_fetch_the_keys_of_tokens() -> None:
    issuer = {"jwtIssuer": "i", "jwtAudience": "a"}
    ways = {}
    for url in ("", "https://login.example.com/jwks"):
        text = json.dumps({"clientAuth": {"jwksUrl": url, **issuer}, "networkPolicy": CLOSED})
        manifests = render(Variant(values=text))
        pod = named(manifests, "Deployment", "fraudops-inference")["spec"]["template"]
        labelled = pod["metadata"]["labels"].get("fraudops.io/access-https")
        policies = [policy["metadata"]["name"] for policy in kinds(manifests, "NetworkPolicy")]
        ways[url] = (labelled, "fraudops-from-https-clients" in policies)
    assert list(ways.values()) == [(None, False), ("true", True)]
    assert open_ways(DNS, clientAuth={"jwksUrl": url, **issuer}) == {"apiServer", "https"}


ADDRESSES = ["0.0.0.0/0", "::/0", "0::0/0", "10.0.0.0/0", "2001:db8::/0"]


@pytest.mark.parametrize("cidr", ADDRESSES)
def test_any_address_is_open_in_every_spelling(cidr: str) -> None:
    any_address = {"ipBlock": {"cidr": cidr, "except": ["192.0.2.0/24"]}}
    rule = {"to": [{"podSelector": {}}, any_address]}
    assert open_ways(CLOSED | {"apiServer": {"cidrs": ["192.0.2.1/32", cidr]}}) == {"apiServer"}
    closed = {"cidrs": ["192.0.2.1/32"]}
    peers, egress = closed | {"peers": [any_address]}, closed | {"egress": [rule]}
    assert open_ways(CLOSED | {"apiServer": peers}) == {"apiServer"}
    assert open_ways(CLOSED | {"apiServer": egress}) == {"apiServer"}
    assert open_ways(CLOSED | {"dns": {"peers": [any_address]}}) == {"dns"}
    assert open_ways(CLOSED | {"extraEgress": {"jobs": [rule]}}) == {"extraEgress.jobs"}


def test_a_rule_without_peers_is_open_and_a_closed_way_is_not() -> None:
    ports = [{"port": 443, "protocol": "TCP"}]
    assert open_ways(CLOSED | {"apiServer": {"egress": [{"ports": ports}]}}) == {"apiServer"}
    assert open_ways(CLOSED | {"extraEgress": {"all": [{"ports": ports}]}}) == {"extraEgress.all"}
    assert open_ways(CLOSED | {"apiServer": {"cidrs": []}}) == set()
    # The rules replace the addresses, also those of the defaults.
    rule = {"to": [{"ipBlock": {"cidr": "192.0.2.0/30"}}], "ports": ports}
    assert open_ways(DNS | {"apiServer": {"egress": [rule]}}) == set()


def egress_of(manifests: list[Manifest], way: str) -> list[dict[str, Any]]:
    policy = named(manifests, "NetworkPolicy", f"fraudops-from-{way}-clients")
    return list(policy["spec"]["egress"])


@pytest.mark.parametrize("way", ["apiServer", "postgresql", "mlflow", "https"])
def test_rules_replace_addresses_peers_and_ports(way: str) -> None:
    rules = [
        {
            "to": [{"ipBlock": {"cidr": f"192.0.2.{host}/32"}}],
            "ports": [{"port": port, "protocol": "TCP"}],
        }
        for host, port in ((1, 6432), (2, 5432))
    ]
    policy = CLOSED | {way: {"egress": rules, "peers": [{"podSelector": {}}], "ports": [1]}}
    manifests = render(Variant(values=json.dumps(OWN | {"networkPolicy": policy})))
    assert egress_of(manifests, "api" if way == "apiServer" else way) == rules


def test_the_notes_name_the_open_ways() -> None:
    assert "networkPolicy.apiServer, networkPolicy.dns: pods may reach any address" in notes()
    closed = ("networkPolicy.apiServer.cidrs={192.0.2.1/32}",)
    assert "networkPolicy.dns: pods may reach any address" in notes(*closed)
    peers = ("networkPolicy.dns.peers[0].podSelector.matchLabels.a=b",)
    assert "any address" not in notes(*closed, *peers)


def test_extra_ingress_is_for_its_part_alone() -> None:
    rule = {"from": [{"podSelector": {}}], "ports": [{"port": 15008, "protocol": "TCP"}]}
    parts = ("all", "inference", "mlflow", "postgresql")
    policy = {"extraIngress": {part: [rule] for part in parts}}
    manifests = render(Variant(values=json.dumps({"networkPolicy": policy})))
    for part in parts:
        spec = named(manifests, "NetworkPolicy", f"fraudops-extra-ingress-{part}")["spec"]
        assert (spec["policyTypes"], spec["ingress"]) == (["Ingress"], [rule])
        assert "egress" not in spec
        labels = spec["podSelector"]["matchLabels"]
        assert labels["app.kubernetes.io/instance"] == "fraudops"
        chosen = spec["podSelector"].get("matchExpressions", [])
        assert [expression["values"] for expression in chosen] == (
            [[part]] if part != "all" else []
        )
    assert "/networkPolicy/extraIngress/all/0" in refusal(
        values="networkPolicy: {extraIngress: {all: [{to: []}]}}"
    )


def test_without_extra_rules_there_is_no_policy_for_them() -> None:
    names = [policy["metadata"]["name"] for policy in kinds(render(EVERYTHING), "NetworkPolicy")]
    assert [name for name in names if "extra" in name] == []


RECIPES = [block.text for block in blocks() if block.page == PAGE and block.language == "yaml"]


@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_a_recipe_of_the_page_renders(number: int) -> None:
    own = json.dumps({"postgresql": OWN["postgresql"]})
    plain = render(Variant(values=own))
    assert render(Variant(values=f"{RECIPES[number]}\n{own[1:-1]}")) != plain
