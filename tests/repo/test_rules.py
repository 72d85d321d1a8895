"""Rules about the repository itself: its layout, its file names, and forbidden words."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOP = {
    *(
        "services",
        "charts",
        "k8s",
        "jobs",
        "tests",
        "fraudops",
        "benchmarks",
        ".ci",
        ".github",
        "docs",
    ),
    *(
        "skaffold.yaml",
        "kind-config.yaml",
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "UPGRADING.md",
        ".editorconfig",
        "LICENSE",
        "Makefile",
        ".gitignore",
        ".dockerignore",
        ".pre-commit-config.yaml",
    ),
}
VAGUE = {"utils", "helpers", "common", "core", "base", "misc", "manager", "constants"}


def tracked() -> list[str]:
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return done.stdout.split("\n")[:-1]
    return [
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*")
        if path.is_file() and not path.parts[len(ROOT.parts)].startswith(".venv")
    ]


def test_the_top_level_is_the_architecture() -> None:
    unexpected = {name.split("/")[0] for name in tracked()} - TOP
    assert {
        name for name in unexpected if not re.fullmatch(r"requirements(-[a-z]+)?\.lock", name)
    } == set()


def test_no_file_has_a_vague_name() -> None:
    assert [name for name in tracked() if Path(name).stem in VAGUE] == []


def test_no_lock_file_names_a_host() -> None:
    locks = list(ROOT.glob("requirements*.lock"))
    assert locks
    for lock in locks:
        assert "://" not in lock.read_text()


def test_no_file_is_long() -> None:
    long = {
        name: len((ROOT / name).read_text().splitlines())
        for name in tracked()
        if name.endswith(".py") and (ROOT / name).exists()
    }
    assert {name: lines for name, lines in long.items() if lines > 500} == {}
    product = sorted(
        lines
        for name, lines in long.items()
        if name.split("/")[0] in ("fraudops", "services", "jobs")
    )
    assert product[int(len(product) * 0.9)] <= 250


def test_no_work_is_left_undone_in_the_code() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    guilty = [
        name
        for name in tracked()
        if name.endswith(".py")
        and name != "tests/repo/test_rules.py"
        and marks.search((ROOT / name).read_text())
    ]
    assert guilty == []
