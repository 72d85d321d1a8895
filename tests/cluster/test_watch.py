"""Monitoring in a real cluster: Prometheus, the autoscaler and the drift CronJob."""

import json
from typing import Any

from tests.cluster import addons
from tests.cluster.release import URL, Release, until
from tests.support.figures import Figures

ROWS = 1500


def test_prometheus_scrapes_every_pod(release: Release) -> None:
    addons.need(release, "prometheus")
    release.install("serviceMonitor.enabled=true", "prometheusRule.enabled=true")

    def query(path: str) -> dict[str, Any]:
        proxy = "/api/v1/namespaces/monitoring/services/prometheus-operated:9090/proxy/api/v1/"
        answer = release.kubectl("get", "--raw", proxy + path, check=False)
        return dict(json.loads(answer)["data"]) if answer else {}

    def scraped() -> bool:
        samples = query("query?query=fraudops_serving_epoch").get("result", [])
        return {sample["metric"]["pod"] for sample in samples} == set(release.pods()) and {
            sample["value"][1] for sample in samples
        } == {str(release.serving()[1])}

    until(scraped, 180, "fraudops_serving_epoch of every pod in Prometheus")

    def evaluated() -> bool:
        rules = [
            rule
            for group in query("rules").get("groups", [])
            for rule in group["rules"]
            if rule["name"].startswith("Fraudops")
        ]
        return len(rules) > 10 and {rule["health"] for rule in rules} == {"ok"}

    until(evaluated, 180, "every alert of the release evaluated by Prometheus")
    firing = [alert["labels"] for alert in query("alerts")["alerts"] if alert["state"] == "firing"]
    assert [labels["alertname"] for labels in firing if labels.get("severity") == "critical"] == []


def test_the_autoscaler_scales_up_under_load_and_down_again(
    release: Release, figures: Figures
) -> None:
    addons.need(release, "metrics")
    scaling = (
        "enabled=true",
        "minReplicas=2",
        "maxReplicas=4",
        "targetCPUUtilizationPercentage=60",
        "scaleDownStabilizationSeconds=15",
    )
    release.install(
        *(f"inference.autoscaling.{setting}" for setting in scaling),
        "inference.resources.requests.cpu=100m",
    )
    try:
        with release.traffic(rate=600, connections=16) as seen:
            until(lambda: len(release.pods()) > 2, 300, "more pods than two under load")
        until(lambda: len(release.pods()) == 2, 300, "two pods again without load")
    finally:
        release.install()
    assert seen.failures == []
    release.assert_all_audited(seen.ids)
    figures.note(
        "HPA up under load and down again",
        f"{seen.answered} requests, failed: {len(seen.failures)}",
    )


def test_drift_alerts_on_the_drifted_replay_only(release: Release, figures: Figures) -> None:
    release.agreed()
    # This run covers the predictions of other tests, so the next windows hold only the replays.
    assert release.fraudops("drift", "--on-cluster", "--since", "last").returncode == 0
    verdicts = [
        replayed(release, *arguments)
        for arguments in ((), ("--drift", "covariate"), ("--drift", "covariate"))
    ]
    assert verdicts == ["none", "warning", "alarm"]
    figures.note("drift of a plain replay, then of two drifted ones", ", ".join(verdicts))


def replayed(release: Release, *drift: str) -> str:
    """Replay rows and return the verdict of the chart's drift CronJob on them."""
    release.fraudops("simulate", "--url", URL, "--rows", str(ROWS), "--no-labels", *drift)
    sent = int(release.sql("SELECT count(*) FROM predictions"))
    until(
        lambda: int(release.sql("SELECT count(*) FROM predictions")) >= sent,
        60,
        "the replay's audit rows",
    )
    report = json.loads(
        release.fraudops("drift", "--on-cluster", "--since", "last", "--json").stdout
    )
    assert report["rows"] >= ROWS, report
    return str(report["verdict"])
