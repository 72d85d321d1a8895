"""Releases in their own namespaces: an upgrade loses nothing, a neighbour changes nothing."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.cluster.release import Release, Repetitions, run, until
from tests.support.figures import Figures
from tests.support.releases import commits, unpack

BATCH = 1000
FILL = """
import json, sys, urllib.request
row = json.load(open("/clients/transaction.json"))
body = json.dumps({"transactions": [row] * %d}).encode()
headers = {"Content-Type": "application/json"}
for _ in range(int(sys.argv[2])):
    request = urllib.request.Request(sys.argv[1] + "/predict/batch", body, headers)
    urllib.request.urlopen(request, timeout=60).read()
"""


def test_an_upgrade_from_the_previous_release_loses_nothing(
    upgrade: Upgrade, counts: Repetitions, figures: Figures
) -> None:
    before, after = upgrade.before, upgrade.after
    serving = before.agreed()
    fill(before, counts.audited_rows)
    rows = int(before.sql("SELECT count(*) FROM predictions"))
    assert rows >= counts.audited_rows
    with after.traffic() as seen:
        after.install()
    assert seen.failures == []
    after.assert_all_audited(seen.ids)
    assert int(after.sql("SELECT count(*) FROM predictions")) == rows + seen.answered
    assert after.agreed() == serving
    new = {f"fraudops-serving:{after.values['inference']['image']['tag']}"}
    until(
        lambda: {image_of(pod) for pod in after.objects("pods", "inference")} == new,
        90,
        "only pods of the new image",
    )
    figures.note(
        f"helm upgrade from release {upgrade.version} under load",
        f"{rows} audited rows, all kept; {seen.answered} requests during it, "
        f"failed: {len(seen.failures)}",
    )


def test_a_second_release_in_another_namespace_by_helm_3(
    release: Release, upgrade: Upgrade, figures: Figures
) -> None:
    """`helm3 install --wait` ends with a first model that serves; its neighbour does not change."""
    neighbour = upgrade.after
    second, before = replace(release, namespace="second"), neighbour.agreed()
    pods = neighbour.pods()
    release.kubectl("create", "namespace", "second")
    try:
        second.install("inference.replicas=1", "ingress.enabled=false", program="helm3")
        assert second.agreed()[1] == 1
        output = second.helm("test", "fraudops", "--logs", program="helm3")
        assert "its audit row is in PostgreSQL" in output
    finally:
        release.kubectl("delete", "namespace", "second", "--wait=false")
    assert neighbour.agreed() == before
    assert neighbour.pods() == pods
    figures.note("helm3 install --wait of a second release", "serves its own first model, epoch 1")


def image_of(pod: dict[str, object]) -> str:
    spec: dict[str, list[dict[str, str]]] = pod["spec"]  # type: ignore[assignment]
    return spec["containers"][0]["image"]


def fill(release: Release, rows: int) -> None:
    """Send predictions by the thousand from a pod, and wait until all are in the table."""
    with release.client(["sleep", "3600"], {"fill.py": FILL % BATCH}) as pod:
        release.kubectl(
            "exec",
            pod,
            "--",
            "python",
            "/clients/fill.py",
            f"http://{release.name}-inference",
            str(rows // BATCH),
        )
    until(
        lambda: int(release.sql("SELECT count(*) FROM predictions")) >= rows,
        120,
        f"{rows} audit rows",
    )
