"""From the chart and the images of an earlier commit to these: nothing is lost, no request fails."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster.release import ROOT, PodCounts, Release, run, until
from tests.support.figures import Figures

# The first commit whose release serves in a cluster and has all that an upgrade must keep.
EARLIER = "962f8a802c7b"
IMAGES = {"inference": "services/inference", "mlflow": "services/mlflow", "jobs": "jobs"}
NAMES = {"inference": "fraudops-serving", "mlflow": "fraudops-mlflow", "jobs": "fraudops-jobs"}
BATCH = 1000
FILL = """
import json, sys, urllib.request
row = json.load(open("/clients/transaction.json"))
body = json.dumps({"transactions": [row] * %d}).encode()
for _ in range(int(sys.argv[2])):
    request = urllib.request.Request(sys.argv[1] + "/predict/batch", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=60).read()
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, release: Release) -> Iterator[Path]:
    """The earlier commit's files, its images on the node under a tag of their own."""
    if (
        subprocess.run(
            ["git", "-C", str(ROOT), "cat-file", "-e", f"{EARLIER}^{{commit}}"],
            capture_output=True,
            check=False,
        ).returncode
        != 0
    ):
        pytest.skip(f"this checkout has no history: commit {EARLIER} is not in it")
    folder = tmp_path_factory.mktemp("earlier") / "checkout"
    run("git", "-C", str(ROOT), "worktree", "add", "--detach", str(folder), EARLIER)
    try:
        for place, image in NAMES.items():
            run(
                "docker",
                "build",
                "--quiet",
                "--file",
                str(folder / IMAGES[place] / "Dockerfile"),
                "--tag",
                f"{image}:{EARLIER}",
                str(folder),
            )
            run(
                "kind",
                "load",
                "docker-image",
                f"{image}:{EARLIER}",
                "--name",
                release.context.removeprefix("kind-"),
            )
        yield folder
    finally:
        run("git", "-C", str(ROOT), "worktree", "remove", "--force", str(folder))


def test_an_upgrade_from_an_earlier_commit_loses_nothing(
    release: Release, earlier: Path, counts: PodCounts, figures: Figures
) -> None:
    values = json.loads(json.dumps(release.values)) | {"ingress": {"enabled": False}}
    old = json.loads(json.dumps(values))
    for place in NAMES:
        old[place]["image"]["tag"] = EARLIER
    before, after = (
        replace(release, namespace="earlier", values=chosen) for chosen in (old, values)
    )
    release.kubectl("create", "namespace", "earlier")
    try:
        before.install(chart=earlier / "charts" / "fraudops")
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
        new = {f"fraudops-serving:{values['inference']['image']['tag']}"}
        until(
            lambda: {image_of(pod) for pod in after.objects("pods", "inference")} == new,
            90,
            "only pods of the new image",
        )
    finally:
        release.kubectl("delete", "namespace", "earlier", "--wait=false")
    figures.note(
        f"helm upgrade from commit {EARLIER} under load",
        f"{rows} audited rows, all kept; {seen.answered} requests meanwhile, failed: {len(seen.failures)}",
    )


def image_of(pod: dict[str, object]) -> str:
    spec: dict[str, list[dict[str, str]]] = pod["spec"]  # type: ignore[assignment]
    return spec["containers"][0]["image"]


def fill(release: Release, rows: int) -> None:
    """Audited predictions by the thousand, sent from a pod; returns when all of them are in the table."""
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
