"""Add-ons of a kind cluster: ingress controller, metrics for autoscaling, Prometheus operator.

Each comes from its public Helm chart. KIND_KIT may name a folder with a program `addons/up`, for
machines that cannot pull images; then `addons/up --name CLUSTER ADDON` installs it instead.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from process import CLUSTER, ask, fail, helm, kubectl, run, say

KIT = os.environ.get("KIND_KIT", "")


@dataclass(frozen=True)
class Addon:
    """A Helm chart, and the object (`sign`) that exists if it is already installed."""

    sign: tuple[str, ...]
    namespace: str
    chart: str
    repository: str
    values: tuple[str, ...]


ADDONS = {
    "ingress": Addon(
        ("ingressclass",),
        "traefik",
        "traefik",
        "https://traefik.github.io/charts",
        # The node's ports are those of kind-config.yaml. The service would need a load balancer.
        ("ports.web.hostPort=80", "ports.websecure.hostPort=443", "service.enabled=false"),
    ),
    "metrics": Addon(
        ("apiservice", "v1beta1.metrics.k8s.io"),
        "kube-system",
        "metrics-server",
        "https://kubernetes-sigs.github.io/metrics-server",
        # A kind node's kubelet has a certificate that the cluster's authority did not sign.
        ("args={--kubelet-insecure-tls}",),
    ),
    "prometheus": Addon(
        ("crd", "servicemonitors.monitoring.coreos.com"),
        "monitoring",
        "kube-prometheus-stack",
        "https://prometheus-community.github.io/helm-charts",
        (
            "alertmanager.enabled=false",
            "defaultRules.create=false",
            "grafana.enabled=false",
            "kubeStateMetrics.enabled=false",
            "nodeExporter.enabled=false",
            # Otherwise Prometheus reads only the objects that carry its own release's label.
            "prometheus.prometheusSpec.podMonitorSelectorNilUsesHelmValues=false",
            "prometheus.prometheusSpec.ruleSelectorNilUsesHelmValues=false",
            "prometheus.prometheusSpec.serviceMonitorSelectorNilUsesHelmValues=false",
        ),
    ),
}


def need(*names: str) -> None:
    """Install the add-ons that the cluster does not have."""
    if unknown := set(names) - set(ADDONS):
        fail(f"unknown add-on: {', '.join(unknown)}; known are {', '.join(ADDONS)}")
    missing = [name for name in names if not ask(*kubectl("get", *ADDONS[name].sign, "-o", "name"))]
    if not missing:
        return
    say(f"adding to the cluster: {', '.join(missing)}")
    if KIT:
        run(str(Path(KIT) / "addons" / "up"), "--name", CLUSTER, *missing)
        return
    for name in missing:
        install(ADDONS[name])


def install(addon: Addon) -> None:
    sets = [argument for value in addon.values for argument in ("--set", value)]
    source = (addon.chart, addon.chart, "--repo", addon.repository, "--create-namespace")
    waiting = ("--wait", "--timeout", "5m")
    run(*helm("upgrade", "--install", *source, *waiting, *sets, namespace=addon.namespace))
