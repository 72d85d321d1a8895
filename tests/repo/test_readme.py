"""The files, targets, settings and figures that the README names exist.

tests/machine and tests/cluster run the README's commands.
"""

import json
import re
from pathlib import Path

from fraudops.settings import known_variables

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z0-9-]+)", README)) <= targets


def test_every_setting_of_the_readme_exists() -> None:
    assert set(re.findall(r"\bFRAUDOPS_[A-Z_]+\b", README)) <= known_variables()


def test_every_file_of_the_readme_exists() -> None:
    named = re.findall(
        r"(?<![.\w])((?:benchmarks|charts|fraudops|jobs|k8s|services)/[\w./-]+\.\w+)", README
    )
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_quoted_figures_come_from_recorded_results() -> None:
    for name in re.findall(r"benchmarks/results/[\w-]+\.json", README):
        assert json.loads((ROOT / name).read_text())["commit"]
