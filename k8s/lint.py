"""`python k8s/lint.py`: check the rendered chart by checkov and kube-score.

k8s/lint.yaml names each finding that stays, and why. A finding that it does not name fails, and so
does an entry that no finding meets. `helm` must be on PATH. `CHECKOV` and `KUBE_SCORE` are the
programs; without kube-score its entries are not judged.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "fraudops"
REASONS = ROOT / "k8s" / "lint.yaml"
# Values files below the repository, by the name of the rendering.
RENDERINGS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "quickstart": ("charts/fraudops/values-quickstart.yaml",),
    "everything": ("charts/fraudops/ci/everything-values.yaml",),
    "production": (
        "k8s/values/external-postgres.yaml",
        "k8s/values/s3.yaml",
        "k8s/values/production.yaml",
    ),
}
# From this grade on, kube-score calls a check passed.
PASSED = 10


@dataclass(frozen=True, order=True)
class Finding:
    """One check that one object of a rendering fails."""

    check: str
    object: str


@dataclass(frozen=True)
class Reason:
    """Why the findings of a check stay; the object `*` means all objects."""

    check: str
    objects: tuple[str, ...]
    because: str

    def met_by(self, finding: Finding) -> set[str]:
        """Return the entries of `objects` that the finding meets."""
        return {"*", finding.object} & set(self.objects) if self.check == finding.check else set()


def reasons(text: str) -> list[Reason]:
    return [
        Reason(entry["check"], tuple(entry["objects"]), entry["because"])
        for entry in yaml.safe_load(text)
    ]


def titled(kind: str, name: str) -> str:
    """Return "Kind name", without the hash of a Job that runs once."""
    return f"{kind} {re.sub(r'-[0-9a-f]{8}$', '', name)}"


def of_checkov(report: Any) -> Iterator[Finding]:
    """Yield the findings of checkov's JSON, which is a list if it has several frameworks."""
    for part in report if isinstance(report, list) else [report]:
        for failed in part["results"]["failed_checks"]:
            kind, _, name = failed["resource"].split(".")[:3]
            yield Finding(f"checkov {failed['check_id']}", titled(kind, name))


def of_kube_score(report: Any) -> Iterator[Finding]:
    for entry in report:
        title = titled(entry["type_meta"]["kind"], entry["object_meta"]["name"])
        for check in entry["checks"]:
            if check["skipped"] or check["grade"] >= PASSED:
                continue
            for comment in check["comments"] or [{"summary": check["check"]["name"]}]:
                yield Finding(f"kube-score {check['check']['id']}: {comment['summary']}", title)


def compare(found: Iterable[Finding], kept: Iterable[Reason]) -> list[str]:
    """Return a sentence for each unexplained finding and each entry without a finding."""
    findings, explained = set(found), list(kept)
    complaints = [
        f"{finding.object}: {finding.check} is new: mend it, or explain it in k8s/lint.yaml"
        for finding in sorted(findings)
        if not any(reason.met_by(finding) for reason in explained)
    ]
    for reason in explained:
        met = {name for finding in findings for name in reason.met_by(finding)}
        complaints += [
            f"{name}: {reason.check} is no finding any more: remove it from k8s/lint.yaml"
            for name in reason.objects
            if name not in met
        ]
    return complaints


def render(folder: Path) -> list[Path]:
    paths = []
    for rendering, files in RENDERINGS.items():
        values = [argument for file in files for argument in ("--values", str(ROOT / file))]
        command = ["helm", "template", "fraudops", str(CHART), "--namespace", "fraud", *values]
        path = folder / f"{rendering}.yaml"
        path.write_text(
            subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        )
        paths.append(path)
    return paths


def report_of(*command: str) -> Any:
    """Return the JSON that a linter prints; its exit code only says that there are findings."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)
    except ValueError:
        sys.exit(f"{command[0]} printed no report:\n{done.stderr}")


def checkov(paths: Iterable[Path]) -> list[Finding]:
    files = [argument for path in paths for argument in ("--file", str(path))]
    # Without the last option it asks its maker's server for pages about the checks.
    options = ("--framework", "kubernetes", "-o", "json", "--compact", "--quiet", "--skip-download")
    return list(of_checkov(report_of(os.environ.get("CHECKOV", "checkov"), *options, *files)))


def kube_score(program: str, paths: Iterable[Path]) -> list[Finding]:
    options = ("score", "--kubernetes-version", "v1.34", "-o", "json")
    return [
        finding
        for path in paths
        for finding in of_kube_score(report_of(program, *options, str(path)))
    ]


def main() -> None:
    kept = reasons(REASONS.read_text())
    with tempfile.TemporaryDirectory() as folder:
        paths = render(Path(folder))
        found = checkov(paths)
        if program := os.environ.get("KUBE_SCORE"):
            found += kube_score(program, paths)
        else:
            kept = [reason for reason in kept if not reason.check.startswith("kube-score ")]
    complaints = compare(found, kept)
    sys.stderr.write("".join(f"{complaint}\n" for complaint in complaints))
    if complaints:
        sys.exit(1)
    sys.stderr.write(f"{len(set(found))} findings in {len(paths)} renderings, each explained\n")


if __name__ == "__main__":
    main()
