"""Every alert is about metrics that the service really has, says what to do, and has a runbook."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from fraudops.audit.shipper_status import ShipperStatus, write_shipper_status
from fraudops.drift.status import DriftStatus, write_drift_status
from tests.chart.rendering import CHART, EVERYTHING, ROOT, VARIANTS, Variant, kinds, refusal, render
from tests.support.http_client import HTTP
from tests.support.serving import Service

ON = ("serviceMonitor.enabled=true", "prometheusRule.enabled=true")
# What Prometheus itself adds, and kube-state-metrics where `kubeStateMetrics` says that it is
# there.
GIVEN_LABELS = {"namespace", "service", "pod"}
GIVEN_METRICS = {
    "kube_job_failed": {"namespace", "job_name", "condition"},
    "kube_job_status_start_time": {"namespace", "job_name"},
}
WORDS = {"and", "or", "unless", "by", "on", "without", "bool", "offset", "ignoring"}
Labels = dict[str, set[str]]


def alerts(variant: Variant = EVERYTHING) -> list[dict[str, Any]]:
    return [
        rule
        for manifest in kinds(render(variant), "PrometheusRule")
        for group in manifest["spec"]["groups"]
        for rule in group["rules"]
    ]


def named(variant: Variant) -> set[str]:
    return {rule["alert"] for rule in alerts(variant)}


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """Each metric that an expression names, with what stands in its braces."""
    bare = re.sub(r"\b(?:by|on|without|ignoring) ?\([^)]*\)", " ", expression)
    for found in re.finditer(
        r"(?<![\w\"/.|])([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?(?!\w)\s*(\()?", bare
    ):
        name, braces, call = found.groups()
        if braces is not None or (call is None and name not in WORDS):
            yield name, braces or ""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """Every sample that a service renders which has answered, refused, shipped and looked for
    drift, with its labels.
    """
    service = Service(tmp_path_factory.mktemp("alerts"), workers=1).promoted(1)
    try:
        now = datetime.now(UTC)
        write_shipper_status(service.state, ShipperStatus(pid=1, at=now, phase="shipping"))
        write_drift_status(
            service.state,
            DriftStatus(last_run=now, verdict="alarm", digest=service.ready()["digest"]),
        )
        assert service.predict().status_code == 200
        text = HTTP.get(f"{service.url}/metrics").text
    finally:
        service.stop()
    found: Labels = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition(" ")[0].partition("{")
            found.setdefault(name, set()).update(re.findall(r"(\w+)=", rest))
    return found


def test_every_metric_of_every_alert_is_one_that_the_service_has(served: Labels) -> None:
    known = served | GIVEN_METRICS
    for rule in alerts():
        used = dict(selectors(rule["expr"]))
        assert used, rule["alert"]
        assert used.keys() <= known.keys(), rule["alert"]
        for name, braces in selectors(rule["expr"]):
            labels = set(re.findall(r"(\w+)(?:=~|=|!=|!~)", braces))
            assert labels <= known[name] | GIVEN_LABELS, f"{rule['alert']}: {name}"
            assert "namespace" in labels, f"{rule['alert']}: {name} of every release in the cluster"


def test_the_paths_that_alerts_select_are_ones_that_are_counted() -> None:
    paths = {
        path
        for rule in alerts()
        for group in re.findall(r'endpoint=~?"([^"]*)"', rule["expr"])
        for path in group.split("|")
    }
    source = (ROOT / "services" / "inference" / "http" / "endpoints.py").read_text()
    assert paths == {"/predict", "/predict/batch", "/feedback"}
    assert {path for path in paths if f'"{path}": Endpoint(' not in source} == set()


def test_an_expression_is_read_as_prometheus_does() -> None:
    expression = 'max by (pod) (rate(a_total{x="m|n"}[5m])) > 4 * 3600 or (b{y=~"/c"} unless on (pod) d) and time() - e{} < 1'
    assert list(selectors(expression)) == [
        ("a_total", 'x="m|n"'),
        ("b", 'y=~"/c"'),
        ("d", ""),
        ("e", ""),
    ]


def test_every_alert_says_how_bad_it_is_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        sentences = re.findall(
            r"[^.]+\.(?: |$)", re.sub(r"\{\{.*?\}\}", "X", rule["annotations"]["summary"])
        )
        assert len(sentences) >= 2, f"{rule['alert']}: what happened, then what to do"
        assert (
            rule["annotations"]["runbook_url"]
            == f"https://runbooks.example.com/fraudops#{rule['alert'].lower()}"
        )


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    headings = re.findall(r"^## (\w+)$", (CHART / "RUNBOOKS.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(named(EVERYTHING))


def test_no_alert_is_there_unless_it_is_asked_for() -> None:
    alerting = {name for name, variant in VARIANTS.items() if alerts(variant)}
    assert alerting == {
        name
        for name, variant in VARIANTS.items()
        if {EVERYTHING.files[0], "k8s/values/production.yaml"} & set(variant.files)
    }
    assert "prometheusRule.enabled needs serviceMonitor.enabled" in refusal(
        "prometheusRule.enabled=true"
    )


def test_alerts_are_only_about_what_the_release_does() -> None:
    production = named(Variant(settings=ON))
    assert "FraudopsSampleModelInProduction" in production
    assert production - named(Variant(settings=(*ON, "environment=development"))) == {
        "FraudopsSampleModelInProduction"
    }
    assert production - named(Variant(settings=(*ON, "jobs.drift.enabled=false"))) == {
        "FraudopsDriftUnknown"
    }
    assert named(
        Variant(settings=(*ON, "inference.spool.persistence.enabled=true"))
    ) - production == {"FraudopsSpoolAbandoned"}
    assert named(Variant(settings=(*ON, "prometheusRule.kubeStateMetrics=true"))) - production == {
        "FraudopsJobFailed"
    }


def test_limits_are_the_values() -> None:
    settings = (
        "prometheusRule.errorShare=0.05",
        "prometheusRule.latencyP99Seconds=0.25",
        "prometheusRule.spoolAgeSeconds=90",
        "audit.spoolMaxBytes=10000000",
    )
    limits = {
        rule["alert"]: rule["expr"].rpartition("> ")[2]
        for rule in alerts(Variant(settings=(*ON, *settings)))
    }
    expected = {
        "FraudopsErrorShare": "0.05",
        "FraudopsLatency": "0.25",
        "FraudopsShipperBehind": "90",
    }
    assert (
        limits
        | expected
        | {"FraudopsSpoolNearlyFull": "8000000", "FraudopsSpoolFillsUp": "10000000"}
        == limits
    )


def test_the_paths_keep_their_label_when_they_are_scraped() -> None:
    """Prometheus would name its own port `endpoint`, and the alerts on /predict would never fire."""
    (monitor,) = kinds(render(EVERYTHING), "ServiceMonitor")
    assert [endpoint["honorLabels"] for endpoint in monitor["spec"]["endpoints"]] == [True]
