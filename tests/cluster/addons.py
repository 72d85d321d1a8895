"""What a cluster of a site has and a bare one has not: metrics for the HPA, a Prometheus operator.

Added from the neighbouring kit where there is one.
"""

import subprocess
from pathlib import Path

from tests.cluster.release import ROOT, Release, run

KIT = ROOT.parent / "shared" / "kind" / "addons" / "up"
# What is there once an add-on is.
SIGNS = {
    "metrics": ("apiservice", "v1beta1.metrics.k8s.io"),
    "prometheus": ("crd", "servicemonitors.monitoring.coreos.com"),
}


def need(release: Release, addon: str) -> None:
    """Fails when it is neither there nor to be had."""
    if (
        subprocess.run(
            ["kubectl", "--context", release.context, "get", *SIGNS[addon]],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    ):
        return
    assert Path(KIT).exists(), (
        f"the cluster has no {' '.join(SIGNS[addon])}: install {addon} in it first"
    )
    run(str(KIT), "--name", release.context.removeprefix("kind-"), addon)
