"""`k8s/cluster.py` names missing tools and needs only what is on PATH."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "k8s" / "cluster.py"


def call(command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_missing_tools_are_named(tmp_path: Path) -> None:
    program(tmp_path, "kubectl", "exit 0")
    done = call("up", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "not on PATH: docker, kind, helm; install them" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_engine_that_does_not_answer_is_named(tmp_path: Path) -> None:
    for name in ("docker", "kind", "kubectl", "helm"):
        program(tmp_path, name, "exit 1")
    done = call("images", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "no Docker engine answers; start one" in done.stderr


def test_a_kit_is_called_only_to_prepare_missing_tools(tmp_path: Path) -> None:
    program(tmp_path, "up", 'echo "asked" >"$0.log"')
    done = call("images", PATH=str(tmp_path), KIND_KIT=str(tmp_path))
    assert (tmp_path / "up.log").read_text() == "asked\n"
    assert done.returncode == 1, done.stderr
    assert "not on PATH: docker, kind, kubectl, helm" in done.stderr


def test_an_unknown_command_prints_the_commands() -> None:
    done = call("sideways")
    assert done.returncode == 64
    assert done.stderr.startswith("usage: ")
    assert "addon-prometheus" in done.stderr
