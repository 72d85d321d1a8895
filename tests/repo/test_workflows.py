"""Workflows and hooks call what `.ci/run` and a contributor call, and name every unverified pin."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# Only for the runner: the folder of the tools that `make cluster-tools` has built.
PATH_LINE = 'echo "$HOME/cluster-tools" >>"$GITHUB_PATH"'

RELEASE_RIGHTS = {
    "images": {"contents": "read", "packages": "write"},
    "publish": dict.fromkeys(("contents", "packages", "id-token", "attestations"), "write"),
}


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request: pytest.FixtureRequest) -> Any:
    return yaml.safe_load(request.param.read_text())


def steps(workflow: Any) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_is_a_workflow_for_each_part() -> None:
    assert {path.stem for path in WORKFLOWS} == {"check", "chart", "cluster", "docs", "release"}


def test_a_workflow_runs_make_targets_only(workflow: Any) -> None:
    commands = {step["run"] for step in steps(workflow) if "run" in step} - {PATH_LINE}
    assert commands
    for command in commands:
        name = re.match(r"make ([a-z-]+)", command)
        assert name is not None, command
        assert name[1] in TARGETS - {"install"} | {"docs"}, command


def test_a_workflow_reads_only_ends_in_time_and_keeps_no_credentials(workflow: Any) -> None:
    assert workflow["permissions"] == {"contents": "read"}
    # A release that is cut off would leave images without their chart.
    assert workflow["concurrency"]["cancel-in-progress"] is (workflow["name"] != "release")
    rights = {n: j["permissions"] for n, j in workflow["jobs"].items() if "permissions" in j}
    assert rights == (RELEASE_RIGHTS if workflow["name"] == "release" else {})
    assert all(job["timeout-minutes"] <= 75 for job in workflow["jobs"].values())
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_only_a_protected_environment_has_the_password_of_the_registry(workflow: Any) -> None:
    for job in workflow["jobs"].values():
        assert ("REGISTRY_PASSWORD" in json.dumps(job)) == (job.get("environment") == "release")
    assert "secrets" not in json.dumps({**workflow, "jobs": {}})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_an_action_is_pinned_by_digest_or_called_unverified(path: Path) -> None:
    for line in path.read_text().splitlines():
        if "uses:" in line:
            pinned = re.search(r"@[0-9a-f]{40}\b", line)
            assert pinned or re.search(r"@v\d+\.\d+\.\d+ # unverified: ", line), line


def test_every_target_of_the_local_ci_is_in_a_workflow() -> None:
    text = (ROOT / ".ci" / "run").read_text()
    local = re.findall(r"^ *make (?:-o \S+ )?([a-z-]+(?: ARGS=\S+)?)$", text, re.MULTILINE)
    assert len(local) == 7
    text = "".join(path.read_text() for path in WORKFLOWS)
    assert [target for target in local if f"make {target}\n" not in text] == []


def test_hooks_are_local_and_run_what_the_repository_has() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        assert hook["language"] == "system"
        program, _, rest = hook["entry"].partition(" ")
        assert program.startswith(".venv/bin/") or (program == "make" and rest in TARGETS), hook


def test_no_file_but_the_local_ci_looks_outside_the_repository() -> None:
    folders = ("k8s", "tests", "benchmarks", "fraudops", "services", "jobs", ".github")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.is_file()]
    outside = re.compile(r"\.\./shared\b|\"shared\" / \"kind\"")
    named = [
        path.name
        for path in [*files, ROOT / "Makefile"]
        if path.suffix in ("", ".py", ".yml", ".yaml", ".sh")
        and path != Path(__file__)
        and outside.search(path.read_text())
    ]
    assert named == []
