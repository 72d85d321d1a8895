"""SIGTERM to the process of a job: its clean-up runs, and the message says what comes next."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fraudops.state import State
from tests.support.signing import SIGNERS
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
NOWHERE = "127.0.0.1:9"
SECONDS = 20.0
ADVICE = (
    "stopped by SIGTERM before the end: look at `fraudops status`, then run the command again; a "
    "Job of the cluster starts its next try by itself"
)
ASYNC = """
import asyncio
async def wait():
    try:
        print("waiting", flush=True)
        while True:
            %s
    finally:
        # A cancelled task may still wait in its clean-up.
        await asyncio.sleep(0)
        print("cleaned up", flush=True)
def job():
    asyncio.run(wait())
"""
# Each waits in a block that must clean up. It prints a line when the block begins.
# Python misses a signal that comes just before a blocking call, until the call ends: so no call is
# long.
WAITS = {
    "blocking": """
import time
def job():
    try:
        print("waiting", flush=True)
        for _ in range(600):
            time.sleep(0.1)
    finally:
        print("cleaned up", flush=True)
""",
    "asyncio": ASYNC % "await asyncio.Event().wait()",
    "asyncio that computes": ASYNC % "sum(range(100_000)); await asyncio.sleep(0)",
    "a forked child": """
import multiprocessing, time
def wait(runs):
    # Python drops a signal that comes before the child runs.
    runs.set()
    time.sleep(60)
def job():
    fork = multiprocessing.get_context("fork")
    runs = fork.Event()
    child = fork.Process(target=wait, args=(runs,))
    child.start()
    runs.wait()
    child.terminate()
    child.join()
    try:
        print("waiting", flush=True)
        for _ in range(600):
            time.sleep(0.1)
    finally:
        print("cleaned up", child.exitcode, flush=True)
""",
}
CLEANED_UP = {"a forked child": f"cleaned up {-signal.SIGTERM}\n"}
RUN = """
import click
from jobs.runner import run
run(click.Command("job", callback=job))
"""


@contextmanager
def started(*arguments: str, **options: object) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(  # type: ignore[call-overload]
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("ignore_sigint", [False, True], ids=["foreground", "background"])
@pytest.mark.parametrize("kind", WAITS)
def test_a_job_cleans_up_and_ends_with_143(kind: str, ignore_sigint: bool) -> None:
    def ignore() -> None:
        # As a shell does for a command with `&`.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    options = {"preexec_fn": ignore} if ignore_sigint else {}
    with started("-c", WAITS[kind] + RUN, **options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out) == (143, CLEANED_UP.get(kind, "cleaned up\n"))
    assert err.strip() == ADVICE


def test_a_promotion_that_waits_for_the_lock_ends_and_says_what_comes_next(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "locks" / "promotion.lock"
    lock.parent.mkdir(parents=True)
    (tmp_path / "admin.token").write_text("secret")
    SIGNERS.write_keys(State.at(tmp_path))
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": f"http://{NOWHERE}",
        "DATABASE_URL": f"postgresql://me:secret@{NOWHERE}/fraudops",
        "FRAUDOPS_URL": f"http://{NOWHERE}",
    }
    command = ("-m", "jobs.promote", "--version", "1", "--state", str(tmp_path))
    with lock.open("a") as held, started(*command, env=environment) as process:
        fcntl.flock(held, fcntl.LOCK_EX)

        def waits() -> None:
            assert process.poll() is None, process.communicate()
            opened = Path(f"/proc/{process.pid}/fd").iterdir()
            assert str(lock) in {str(each.readlink()) for each in opened}

        eventually(waits, SECONDS)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=SECONDS)
    assert (process.returncode, out, err.strip()) == (143, "", ADVICE)
