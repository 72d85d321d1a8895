"""Imports: they have no effects, and they follow the order of the packages."""

import ast
import pkgutil
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fraudops
import jobs
import services
from tests.support.scheduling import LONGEST

TESTS = Path(__file__).parents[1]
ALEMBIC_ENTRY = "fraudops.audit.migrations.env"  # only Alembic can run it


def modules() -> list[str]:
    names = [package.__name__ for package in (fraudops, services, jobs)]
    for package in (fraudops, services, jobs):
        names += [
            module.name
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        ]
    return [name for name in names if not name.endswith("__main__") and name != ALEMBIC_ENTRY]


def test_every_module_imports_with_an_empty_environment(tmp_path: Path) -> None:
    names = modules()
    assert len(names) > 50
    lines = [f"import {name}" for name in names]
    code = (
        "import threading\n"
        + "\n".join(lines)
        + "\nassert threading.active_count() == 1, threading.enumerate()\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_signatures_import_cryptography_when_they_use_a_key() -> None:
    code = (
        "import sys, fraudops.signing.key_files, fraudops.signing.verdicts, "
        "fraudops.signing.waivers; sys.exit('cryptography' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def imported_names(path: Path) -> set[str]:
    """Return the dotted names that a file imports, the imports inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_module_imports_a_test_module() -> None:
    test_module = re.compile(r"(^|\.)(test_\w+|conftest)\b")
    imports = {
        str(path.relative_to(TESTS)): sorted(filter(test_module.search, imported_names(path)))
        for path in TESTS.rglob("*.py")
    }
    assert {path: names for path, names in imports.items() if names} == {}


def test_no_two_classes_of_the_test_support_have_one_name() -> None:
    names = Counter(
        node.name
        for path in (TESTS / "support").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_every_file_that_the_scheduling_names_exists() -> None:
    assert set(LONGEST) <= {path.name for path in TESTS.rglob("test_*.py")}
