"""The alerts: existing metrics only, a summary that says what to do, and a runbook for each."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from fraudops.audit.shipper_status import ShipperStatus, write_shipper_status
from fraudops.drift.status import DriftStatus, write_drift_status
from services.inference.http.routes import ROUTES
from tests.chart.rendering import CHART, EVERYTHING, VARIANTS, Variant, kinds, refusal, render
from tests.support.http_client import HTTP
from tests.support.serving import Service

ON = ("serviceMonitor.enabled=true", "prometheusRule.enabled=true")
# Prometheus adds these labels. kube-state-metrics adds these metrics if `kubeStateMetrics` is on.
EXTERNAL_LABELS = {"namespace", "service", "pod"}
EXTERNAL_METRICS = {
    "kube_job_failed": {"namespace", "job_name", "condition"},
    "kube_job_status_start_time": {"namespace", "job_name"},
    "kube_deployment_status_replicas_available": {"namespace", "deployment"},
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


def alert_names(variant: Variant) -> set[str]:
    return {rule["alert"] for rule in alerts(variant)}


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """Yield each metric that an expression names, with the text in its braces."""
    bare = re.sub(r"\b(?:by|on|without|ignoring) ?\([^)]*\)", " ", expression)
    for match in re.finditer(
        r"(?<![\w\"/.|])([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?(?!\w)\s*(\()?", bare
    ):
        name, braces, call = match.groups()
        if braces is not None or (call is None and name not in WORDS):
            yield name, braces or ""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    """Return the labels of every sample that a service renders after predictions and drift runs."""
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
    labels: Labels = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition(" ")[0].partition("{")
            labels.setdefault(name, set()).update(re.findall(r"(\w+)=", rest))
    return labels


def test_the_service_has_every_metric_of_every_alert(served: Labels) -> None:
    known = served | EXTERNAL_METRICS
    for rule in alerts():
        used = dict(selectors(rule["expr"]))
        assert used, rule["alert"]
        assert used.keys() <= known.keys(), rule["alert"]
        for name, braces in selectors(rule["expr"]):
            labels = set(re.findall(r"(\w+)(?:=~|=|!=|!~)", braces))
            assert labels <= known[name] | EXTERNAL_LABELS, f"{rule['alert']}: {name}"
            assert "namespace" in labels, f"{rule['alert']}: {name} of every release in the cluster"


def test_the_service_counts_the_paths_that_alerts_select() -> None:
    paths = {
        path
        for rule in alerts()
        for group in re.findall(r'endpoint=~?"([^"]*)"', rule["expr"])
        for path in group.split("|")
    }
    assert paths == {"/predict", "/predict/batch", "/feedback", "/v2/models/infer"}
    assert paths <= {route.label for route in ROUTES}


def test_an_expression_is_read_as_prometheus_does() -> None:
    expression = (
        'max by (pod) (rate(a_total{x="m|n"}[5m])) > 4 * 3600'
        ' or (b{y=~"/c"} unless on (pod) d) and time() - e{} < 1'
    )
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
    assert sorted(headings) == sorted(alert_names(EVERYTHING))


def test_alerts_are_rendered_only_if_they_are_enabled() -> None:
    alerting = {name for name, variant in VARIANTS.items() if alerts(variant)}
    assert alerting == {
        name
        for name, variant in VARIANTS.items()
        if {EVERYTHING.files[0], "k8s/values/production.yaml"} & set(variant.files)
    }
    assert "prometheusRule.enabled needs serviceMonitor.enabled" in refusal(
        "prometheusRule.enabled=true"
    )


def test_alerts_are_only_about_enabled_features_of_the_release() -> None:
    production = alert_names(Variant(settings=ON))
    assert "FraudopsSampleModelInProduction" in production
    assert production - alert_names(Variant(settings=(*ON, "environment=development"))) == {
        "FraudopsSampleModelInProduction"
    }
    assert production - alert_names(Variant(settings=(*ON, "jobs.drift.enabled=false"))) == {
        "FraudopsDriftUnknown"
    }
    assert alert_names(
        Variant(settings=(*ON, "inference.spool.persistence.enabled=true"))
    ) - production == {"FraudopsSpoolAbandoned"}
    assert alert_names(
        Variant(settings=(*ON, "prometheusRule.kubeStateMetrics=true"))
    ) - production == {"FraudopsJobFailed", "FraudopsReconcilerDown"}


def test_the_limits_of_alerts_are_the_values() -> None:
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
    # Without honorLabels Prometheus overwrites the label `endpoint` with the name of the scraped
    # port, and the alerts on /predict never fire.
    (monitor,) = kinds(render(EVERYTHING), "ServiceMonitor")
    assert [endpoint["honorLabels"] for endpoint in monitor["spec"]["endpoints"]] == [True]


def job_names(fullname: str) -> set[str]:
    """Return the names of Jobs of a release: of the chart, of CronJobs, and of `--on-cluster`."""
    settings = (f"fullnameOverride={fullname}", "bootstrap.enabled=true", "environment=development")
    manifests = render(Variant(settings=(*settings, "data.source=volume"), upgrade=True))
    names = {job["metadata"]["name"] for job in kinds(manifests, "Job")}
    for cronjob in kinds(manifests, "CronJob"):
        names |= {f"{cronjob['metadata']['name']}-{suffix}" for suffix in ("29411234", "a1b2c3")}
    return names


def test_the_alert_on_jobs_selects_the_jobs_of_its_release_alone() -> None:
    settings = (*ON, "prometheusRule.kubeStateMetrics=true", "fullnameOverride=fraud")
    (rule,) = [r for r in alerts(Variant(settings=settings)) if r["alert"] == "FraudopsJobFailed"]
    (expression,) = set(re.findall(r'job_name=~"([^"]*)"', rule["expr"]))
    own = job_names("fraud")
    assert len(own) >= 18
    assert {name for name in own if not re.fullmatch(expression, name)} == set()
    for other in ("fraud-2", "fraud-train", "fraud-migrate", "fraud-train-2", "a-fraud"):
        assert {name for name in job_names(other) if re.fullmatch(expression, name)} == set()
