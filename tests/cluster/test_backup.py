"""A second release by Helm 3, then its backup and restore, by the lines of the page."""

import os
import subprocess
import time
from pathlib import Path

from tests.cluster.by_helm_3 import NAMESPACE
from tests.cluster.release import CHART, ROOT, Release
from tests.support.documents import blocks
from tests.support.figures import Figures

PAGE = ROOT / "docs" / "operations" / "backup.md"


def test_helm_3_installs_a_second_release(second: Release, figures: Figures) -> None:
    """`helm3 install --wait` ends with a first model that serves."""
    assert second.agreed()[1] == 1
    output = second.helm("test", second.name, "--logs", program="helm3")
    assert "its audit row is in PostgreSQL" in output
    figures.note("helm3 install --wait of a second release", "serves its own first model, epoch 1")


def lines_of_page(release: Release, values: str) -> tuple[list[str], str]:
    """Return the page's scripts in their order, and its pod, both for this release."""
    found = [block for block in blocks() if block.page == PAGE]
    scripts = [block.text for block in found if block.language == "text"]
    [pod] = [block.text for block in found if block.text.startswith("apiVersion")]
    own = {
        "-n fraudops": f"-n {release.namespace}",
        "namespace fraudops": f"namespace {release.namespace}",
        "charts/fraudops": str(CHART),
        "YOUR-VALUES.yaml": values,
    }
    for words, replacement in own.items():
        scripts = [script.replace(words, replacement) for script in scripts]
    return scripts, pod.replace("fraudops-jobs:TAG", release.jobs_image)


def run_lines(script: str, release: Release, folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=dict(os.environ) | {"KUBECONFIG": str(release.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"


def test_the_same_model_serves_after_a_restore_and_the_audit_is_complete(
    second: Release, tmp_path: Path, figures: Figures
) -> None:
    release = second
    with release.traffic() as seen:
        pass
    release.assert_all_audited(seen.ids)
    before, current = release.agreed(), release.record()["current"]
    promotions = release.sql("SELECT count(*) FROM promotions")
    with release.values_file() as values:
        (copy_out, keys, restore), pod = lines_of_page(release, values)
        (tmp_path / "backup-files.yaml").write_text(pod)
        run_lines(copy_out, release, tmp_path)
        run_lines(keys, release, tmp_path)
        release.kubectl("delete", "namespace", NAMESPACE, "--wait=true", "--timeout=300s")
        started = time.monotonic()
        run_lines(restore, release, tmp_path)
        assert release.agreed() == before
    seconds = time.monotonic() - started
    restored = release.record()["current"]
    for field in ("version", "digest", "epoch"):
        assert restored[field] == current[field]
    # Everything that was answered before the backup is in the restored table, once.
    release.assert_all_audited(seen.ids)
    assert release.sql("SELECT count(*) FROM promotions") == promotions
    release.fraudops("verify", before[0], "--on-cluster")
    assert_answers(release, before[0])
    figures.note(
        "backup, `kubectl delete namespace`, restore",
        f"version {before[0]} serves again after {seconds:.0f} s, installation included;"
        f" {len(seen.ids)} audited rows, lost: 0",
    )


def assert_answers(release: Release, version: str) -> None:
    """Send requests; the version answers all of them, and each answer is audited."""
    with release.traffic() as seen:
        pass
    assert seen.failures == []
    assert {run.version for run in seen.runs} == {version}
    release.assert_all_audited(seen.ids)
