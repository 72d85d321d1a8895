"""Add-ons of the cluster that some tests need: metrics for the autoscaler, and Prometheus."""

import os
import sys

from tests.cluster.release import ROOT, Release, run


def need(release: Release, addon: str) -> None:
    """Install `metrics` or `prometheus` unless the cluster has it."""
    os.environ["KIND_CLUSTER"] = release.context.removeprefix("kind-")
    run(sys.executable, str(ROOT / "k8s" / "cluster.py"), f"addon-{addon}")
