"""A release: what is refused, what the published chart says, and what is signed.

No registry is at hand, so recording programs stand for docker, cosign, syft and gh.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraudops import __version__
from tests.chart.rendering import ROOT, Variant, containers, render, tool

REGISTRY, PASSWORD = "registry.example.com/fraud", "not-for-logs"
BASE = f"python@sha256:{'b' * 64}"
DIGESTS = {
    f"fraudops-{name}": f"sha256:{character * 64}"
    for name, character in (("serving", "1"), ("mlflow", "2"), ("jobs", "3"))
}
CHART_DIGEST = f"sha256:{'4' * 64}"
RECORD = """printf '%s\\n' "$(basename "$0") $*" >>"$RECORD"
case "$*" in
  login*) cat >>"$RECORD"; echo >>"$RECORD" ;;
  *inspect*serving*) echo '{"digest": "sha256:1…"}' ;;
  *inspect*mlflow*) echo '{"digest": "sha256:2…"}' ;;
  *inspect*jobs*) echo '{"digest": "sha256:3…"}' ;;
  push*oci*) echo 'Digest: sha256:4…' >&2 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of what the script reads, named 9.8.7, with recording programs."""
    for name in ("k8s/release.py", "fraudops/__init__.py", "CHANGELOG.md", "UPGRADING.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "charts", tmp_path / "charts")
    for name in ("fraudops/__init__.py", "charts/fraudops/Chart.yaml"):
        text = (tmp_path / name).read_text()
        assert __version__ in text
        (tmp_path / name).write_text(text.replace(__version__, "9.8.7"))
    changes = (tmp_path / "CHANGELOG.md").read_text()
    entries = "## 9.8.7\n\n### Added\n\n- One: thing\n  in two lines.\n\n### Fixed\n\n- It.\n\n"
    (tmp_path / "CHANGELOG.md").write_text(changes.replace("## 0.2.0", f"{entries}## 0.2.0"))
    recording = RECORD
    for digest in (*DIGESTS.values(), CHART_DIGEST):
        recording = recording.replace(f"{digest[:8]}…", digest)
    for name in ("docker", "helm", "cosign", "syft", "gh"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{recording}")
        program.chmod(0o755)
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist" / "fraudops-9.8.7-py3-none-any.whl").write_text("a wheel")
    return tmp_path


def release(checkout: Path, command: str, **changed: str) -> "subprocess.CompletedProcess[str]":
    settings = {
        "TAG": "v9.8.7",
        "ARCH": "arm64",
        "REGISTRY": REGISTRY,
        "REGISTRY_USER": "robot",
        "REGISTRY_PASSWORD": PASSWORD,
        "BASE_IMAGE": BASE,
        "RECORD": str(checkout / "record"),
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [sys.executable, checkout / "k8s" / "release.py", command],
        env=settings | changed,
        capture_output=True,
        text=True,
        check=False,
    )


def recorded(checkout: Path) -> list[str]:
    return (checkout / "record").read_text().splitlines()


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"TAG": "v9.8.6"}, "the tag is v9.8.6, but the files name version 9.8.7"),
        ({"REGISTRY": ""}, "REGISTRY is empty"),
        ({"BASE_IMAGE": "python:3.11-slim"}, "with its digest"),
        ({"BASE_IMAGE": ""}, "BASE_IMAGE is empty"),
    ],
)
def test_a_release_without_its_settings_is_refused(
    checkout: Path, changed: dict[str, str], complaint: str
) -> None:
    assert release(checkout, "check").returncode == 0
    done = release(checkout, "check", **changed)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_version_without_changes_or_of_the_next_release_is_refused(checkout: Path) -> None:
    text = (checkout / "CHANGELOG.md").read_text()
    (checkout / "CHANGELOG.md").write_text(text.replace("## 9.8.7", "## 9.8.8"))
    assert "CHANGELOG.md has no entry for 9.8.7" in release(checkout, "check").stderr
    for name in ("fraudops/__init__.py", "charts/fraudops/Chart.yaml"):
        text = (checkout / name).read_text()
        (checkout / name).write_text(text.replace("9.8.7", "9.8.7-dev"))
    done = release(checkout, "check", TAG="v9.8.7-dev")
    assert "9.8.7-dev is no release" in done.stderr
    (checkout / name).write_text(text)
    assert "several versions: ['9.8.7', '9.8.7-dev']" in release(checkout, "check").stderr


def test_images_are_built_on_the_given_base_and_the_password_is_no_argument(checkout: Path) -> None:
    done = release(checkout, "images")
    assert done.returncode == 0, done.stderr
    assert PASSWORD not in done.stderr
    login, *calls = recorded(checkout)
    assert login == "docker login registry.example.com --username robot --password-stdin"
    assert calls.pop(0) == PASSWORD
    assert len(calls) == 6
    for build, push in zip(calls[::2], calls[1::2], strict=True):
        assert f"--build-arg BASE={BASE} " in build
        assert build.split("--tag ")[1].split()[0] == push.removeprefix("docker push ")
        assert push.endswith(":9.8.7-arm64")


def test_only_digests_are_signed_and_each_thing_that_was_made_is_listed(checkout: Path) -> None:
    done = release(checkout, "publish")
    assert done.returncode == 0, done.stderr
    images = {f"{REGISTRY}/{name}@{digest}" for name, digest in DIGESTS.items()}
    calls = recorded(checkout)
    signed = [call.split()[-1] for call in calls if call.startswith("cosign sign")]
    assert set(signed) == images | {f"{REGISTRY}/charts/fraudops@{CHART_DIGEST}"}
    attested = [call.split()[-1] for call in calls if call.startswith("cosign attest")]
    # The list of the lock file, and that of the whole image for each processor.
    assert sorted(attested) == sorted(3 * list(images))
    subjects = dict(
        reversed(line.split("  "))
        for line in (checkout / "dist" / "subjects.txt").read_text().splitlines()
    )
    assert len(subjects) == 5
    assert subjects[f"{REGISTRY}/fraudops-jobs"] == "3" * 64
    assert len(subjects["fraudops-9.8.7-py3-none-any.whl"]) == 64


def test_the_published_chart_runs_the_digests_and_tells_artifact_hub(
    checkout: Path, tmp_path: Path
) -> None:
    assert release(checkout, "publish").returncode == 0
    chart = checkout / "dist" / "chart" / "fraudops"
    images = {container["image"] for _, _, container in containers(render(Variant(), chart=chart))}
    expected = {f"{REGISTRY}/{name}@{digest}" for name, digest in DIGESTS.items()}
    assert images == expected | {"postgres:17"}
    described: dict[str, Any] = yaml.safe_load((chart / "Chart.yaml").read_text())
    notes = described["annotations"]
    assert yaml.safe_load(notes["artifacthub.io/changes"]) == [
        {"kind": "added", "description": "One: thing in two lines."},
        {"kind": "fixed", "description": "It."},
    ]
    assert {entry["image"] for entry in yaml.safe_load(notes["artifacthub.io/images"])} == expected
    assert notes["artifacthub.io/prerelease"] == "false"
    assert all(isinstance(text, str) for text in notes.values())
    packed = subprocess.run(
        [tool("helm"), "package", chart, "--destination", tmp_path],
        capture_output=True,
        check=False,
    )
    assert packed.returncode == 0, packed.stderr
    assert (tmp_path / "fraudops-9.8.7.tgz").exists()
