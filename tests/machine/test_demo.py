"""The demo as a person runs it, in folders and processes of its own."""

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

DEADLINE_SECONDS = 240


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
    """Processes that hold on to this folder: by their arguments, working folder or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            about = " ".join([*process.cmdline(), process.cwd(), *process.environ().values()])
        except psutil.Error:
            continue
        if str(folder) in about and process.pid != os.getpid():
            found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A working folder; whatever a failed test leaves running in it is ended."""
    yield tmp_path
    for line in left_running(tmp_path):
        with contextlib.suppress(psutil.Error):
            psutil.Process(int(line.split()[0])).kill()


def test_the_demo_walks_the_whole_road_and_leaves_nothing_running(folder: Path) -> None:
    demo = start(folder, "--exit")
    said, _ = demo.communicate(timeout=DEADLINE_SECONDS)
    assert demo.returncode == 0, said + (folder / "stderr.txt").read_text()
    typed = re.findall(r"^\$ fraudops (.*)$", said, re.MULTILINE)
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
    assert re.findall(r"^verdict: ([A-Z ]+)", said, re.MULTILINE) == ["NONE", "WARNING", "ALARM"]
    [report] = re.findall(r"^report: (.*)$", said, re.MULTILINE)
    assert said.index("verdict: ALARM") < said.index(report)
    assert "verdict: ALARM" in Path(report).read_text()
    assert f"file://{report}" in said
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
    time.sleep(seconds)  # somewhere inside the step; where exactly does not matter
    for _ in range(2):  # the second one must not disturb the ending
        demo.send_signal(signal.SIGINT)
        time.sleep(0.05)
    demo.communicate(timeout=DEADLINE_SECONDS)
    assert demo.returncode == 130
    assert left_running(folder) == []


def test_a_step_that_fails_ends_the_demo_with_its_code(folder: Path) -> None:
    demo = start(folder, FRAUDOPS_WORKRES="3")
    said, _ = demo.communicate(timeout=60)
    assert demo.returncode == 64
    assert "$ fraudops train" not in said
    errors = (folder / "stderr.txt").read_text()
    assert "unknown setting FRAUDOPS_WORKRES (did you mean FRAUDOPS_WORKERS?)" in errors
    assert "the demo ends here: `fraudops up --detach` ended with code 64" in errors
    assert left_running(folder) == []
