"""`fraudops demo` as a user runs it: its steps, an interrupt, and a step that fails."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.commands import bare_environment

DEADLINE_SECONDS = 480


def start(folder: Path, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
    command = [str(Path(sys.executable).with_name("fraudops")), "demo", *arguments]
    with (folder / "stderr.txt").open("w") as errors:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=bare_environment() | environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )


def left_running(folder: Path) -> list[str]:
    """List processes that name this folder in arguments, working folder or environment."""
    running = []
    for process in psutil.process_iter():
        try:
            about = " ".join([*process.cmdline(), process.cwd(), *process.environ().values()])
        except psutil.Error:
            continue
        if str(folder) in about and process.pid != os.getpid():
            running.append(f"{process.pid} {' '.join(process.cmdline())}")
    return running


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Yield a working folder; kill what a failed test leaves running in it."""
    yield tmp_path
    for line in left_running(tmp_path):
        with contextlib.suppress(psutil.Error):
            psutil.Process(int(line.split()[0])).kill()


def test_the_demo_runs_every_step_and_leaves_nothing_running(folder: Path) -> None:
    demo = start(folder, "--exit")
    output, _ = demo.communicate(timeout=DEADLINE_SECONDS)
    assert demo.returncode == 0, output + (folder / "stderr.txt").read_text()
    typed = re.findall(r"^\$ fraudops (.*)$", output, re.MULTILINE)
    assert [line.split()[0] for line in typed] == [
        *(
            "up",
            "train",
            "validate",
            "promote",
            "predict",
            "simulate",
            "monitor",
            "drift",
            "simulate",
            "drift",
            "simulate",
            "drift",
            "down",
        )
    ]
    assert re.findall(r"^verdict: ([A-Z ]+)", output, re.MULTILINE) == ["NONE", "WARNING", "ALARM"]
    [report] = re.findall(r"^report: (.*)$", output, re.MULTILINE)
    assert output.index("verdict: ALARM") < output.index(report)
    assert "verdict: ALARM" in Path(report).read_text()
    assert f"file://{report}" in output
    assert left_running(folder) == []


@pytest.mark.parametrize(
    ("step", "seconds"), [("up --detach", 0.02), ("up --detach", 1.0), ("train", 2.0)]
)
def test_an_interrupt_leaves_nothing_running(folder: Path, step: str, seconds: float) -> None:
    demo = start(folder)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith(f"$ fraudops {step}"):
            break
    time.sleep(seconds)  # into the middle of the step; the exact moment does not matter
    for _ in range(2):  # a second interrupt must not disturb the shutdown
        demo.send_signal(signal.SIGINT)
        time.sleep(0.05)
    demo.communicate(timeout=DEADLINE_SECONDS)
    assert demo.returncode == 130
    assert left_running(folder) == []


def test_a_step_that_fails_ends_the_demo_with_its_code(folder: Path) -> None:
    demo = start(folder, FRAUDOPS_WORKRES="3")
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 64
    assert "$ fraudops train" not in output
    errors = (folder / "stderr.txt").read_text()
    assert "unknown setting FRAUDOPS_WORKRES (did you mean FRAUDOPS_WORKERS?)" in errors
    assert "the demo ends here: `fraudops up --detach` ended with code 64" in errors
    assert left_running(folder) == []
