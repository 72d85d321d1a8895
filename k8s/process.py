"""Commands of `k8s/cluster.py`: run one, wait for a state with a deadline, and show what is wrong.

Standard library only: it runs before anything is installed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

CLUSTER = os.environ.get("KIND_CLUSTER", "fraudops")
NAMESPACE = "fraudops"
PAUSE_SECONDS = 2.0
STARTED = time.monotonic()


class FailedError(Exception):
    """A step that ends the program; the message is for the user."""


def say(text: str) -> None:
    """Print one line with the seconds since the start.

    One write keeps lines of several threads apart.
    """
    sys.stderr.write(f"[{time.monotonic() - STARTED:5.0f} s] {text}\n")


def fail(text: str) -> NoReturn:
    raise FailedError(text)


def ask(*command: str) -> str:
    """Return what the command prints, or "" when it fails."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def run(*command: str, env: dict[str, str] | None = None) -> None:
    """Run a command quietly. Raises FailedError with the end of its output when it fails."""
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=env
    )
    if done.returncode != 0:
        fail(f"{done.stdout[-4000:]}failed: {' '.join(command)}")


def kubectl(*arguments: str, namespace: str = NAMESPACE) -> tuple[str, ...]:
    return ("kubectl", "--context", f"kind-{CLUSTER}", "--namespace", namespace, *arguments)


def helm(*arguments: str, namespace: str = NAMESPACE) -> tuple[str, ...]:
    return ("helm", "--kube-context", f"kind-{CLUSTER}", "--namespace", namespace, *arguments)


def together(*steps: Callable[[], None]) -> None:
    """Run the steps in parallel. Raises the first failure after all of them have ended."""
    with ThreadPoolExecutor(len(steps)) as pool:
        running = [pool.submit(step) for step in steps]
    for step in running:
        step.result()


def wait(what: str, check: Callable[[], tuple[bool, str]], seconds: float) -> None:
    """Wait until `check` returns True; print its notes as they change.

    Raises FailedError after the deadline, when the pods, events and logs are printed.
    """
    say(f"waiting for {what} (at most {seconds:g} s)")
    deadline, last_note = time.monotonic() + seconds, ""
    while True:
        done, note = check()
        if note and note != last_note:
            say(f"  {note}")
            last_note = note
        if done:
            return
        if time.monotonic() > deadline:
            diagnose()
            fail(f"{what} did not happen within {seconds:g} s: see the events and logs above")
        time.sleep(PAUSE_SECONDS)


def diagnose() -> None:
    """Print pods, events, and the last log lines of every container that is not ready."""
    for command in (
        kubectl("get", "pods", "-o", "wide"),
        kubectl("get", "events", "--sort-by=.lastTimestamp"),
    ):
        sys.stderr.write("\n".join(ask(*command).splitlines()[-25:]) + "\n")
    for pod in json.loads(ask(*kubectl("get", "pods", "-o", "json")) or '{"items": []}')["items"]:
        statuses = [
            *pod["status"].get("initContainerStatuses", []),
            *pod["status"].get("containerStatuses", []),
        ]
        for status in statuses:
            ended = status["state"].get("terminated", {})
            if not status["ready"] and ended.get("exitCode") != 0:
                name = pod["metadata"]["name"]
                sys.stderr.write(f"--- {name}, {status['name']}: {json.dumps(status['state'])}\n")
                log = ask(*kubectl("logs", name, "-c", status["name"], "--tail=15"))
                sys.stderr.write(log + "\n")


def job_ended(component: str) -> Callable[[], tuple[bool, str]]:
    """A check for `wait`: a Job of the component has ended; the note is its last log line.

    Raises FailedError when the Job has failed for good.
    """

    def check() -> tuple[bool, str]:
        selector = f"app.kubernetes.io/component={component}"
        jobs = ask(*kubectl("get", "jobs", "-l", selector, "-o", "json"))
        conditions = {
            condition["type"]
            for job in json.loads(jobs or '{"items": []}')["items"]
            for condition in job["status"].get("conditions", [])
            if condition["status"] == "True"
        }
        if "Failed" in conditions and "Complete" not in conditions:
            diagnose()
            fail(f"the Job {component} has failed: see its log above")
        # The steps of a pod run one after the other: the last line is that of the newest one.
        logs = kubectl("logs", "-l", selector, "--all-containers", "--tail=1")
        lines = ask(*logs).splitlines()
        return "Complete" in conditions, lines[-1].strip() if lines else ""

    return check


def ready(workload: str) -> Callable[[], tuple[bool, str]]:
    """A check for `wait`: every replica of the workload runs its current template and is ready."""

    def check() -> tuple[bool, str]:
        current = json.loads(ask(*kubectl("get", workload, "-o", "json")) or "{}")
        status, replicas = current.get("status", {}), current.get("spec", {}).get("replicas", 1)
        generation = current.get("metadata", {}).get("generation", 1)
        # With an older observedGeneration the counts still describe the previous template.
        observed = status.get("observedGeneration", 0) >= generation
        updated = observed and status.get("updatedReplicas", 0) == replicas
        running = status.get("readyReplicas", 0)
        return updated and running == replicas, f"{running} of {replicas} ready"

    return check
