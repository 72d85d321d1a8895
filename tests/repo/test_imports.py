"""Nothing happens on import: every module of the packages can be imported with an empty environment."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import fraudops
import jobs
import services

ALEMBIC_ENTRY = "fraudops.audit.migrations.env"  # run by Alembic alone


def modules() -> list[str]:
    found = [package.__name__ for package in (fraudops, services, jobs)]
    for package in (fraudops, services, jobs):
        found += [
            module.name
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        ]
    return [name for name in found if not name.endswith("__main__") and name != ALEMBIC_ENTRY]


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
