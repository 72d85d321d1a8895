"""`up`, `down` and `status` over the real components: restarts, takeovers, complete stops."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fraudops.state import State
from services.supervisor.components import shutdown_policies
from services.supervisor.processes import Handle
from services.supervisor.record import load
from services.supervisor.status import report
from tests.support.commands import CommandResult, bare_environment
from tests.support.http_client import HTTP
from tests.support.platform import Platform, down_at_the_end, whole_platform
from tests.support.waiting import eventually

COMPONENTS = ("inference", "shipper", "mlflow", "postgresql")
# The documentation says 10 s. MLflow needs the processor for most of them, so a busy machine gets
# more.
RESTART_SECONDS = 120


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Yield a product for this module only, in a folder whose name has a space."""
    with whole_platform(tmp_path_factory.mktemp("supervised") / "a state") as started:
        yield started


@pytest.fixture
def running(own: Platform) -> Platform:
    """Return the product with every component running, whatever the test before did to it."""
    if not status(own)["well"]:
        up = own.run("up", "--detach")
        assert up.returncode == 0, up.stderr
    return own


def status(platform: Platform) -> dict[str, Any]:
    return report(platform.state)


def leaders(state: State) -> dict[str, Handle]:
    return {name: part.process for name, part in load(state).components.items() if part.process}


def all_processes(state: State) -> list[psutil.Process]:
    """List the processes of every component's session, PostgreSQL's children and the supervisor."""
    members = [
        process
        for name, leader in leaders(state).items()
        for process in shutdown_policies(state)[name].members(leader)
    ]
    supervisor = load(state).supervisor
    return members + ([psutil.Process(supervisor.pid)] if supervisor else [])


def assert_well(platform: Platform) -> dict[str, Any]:
    report = status(platform)
    assert report["well"], report
    return report


def assert_succeeded(done: CommandResult | subprocess.CompletedProcess[str], words: str) -> None:
    assert (done.returncode, words in done.stderr) == (0, True), done.stderr


def assert_nothing_runs(state: State, processes: list[psutil.Process]) -> None:
    assert not [
        process
        for process in processes
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    ]
    assert not [
        orphan for policy in shutdown_policies(state).values() for orphan in policy.orphans()
    ]
    assert not state.endpoints.exists()


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_that_is_killed_is_started_again_and_the_others_keep_running(
    running: Platform, name: str
) -> None:
    before = leaders(running.state)
    os.kill(before[name].pid, signal.SIGKILL)

    def restarted() -> dict[str, Any]:
        now = leaders(running.state)
        assert now[name] != before[name]
        return assert_well(running)

    after = eventually(restarted, RESTART_SECONDS)
    assert after[name]["restarts"] > 0
    assert {
        other: process for other, process in leaders(running.state).items() if other != name
    } == {other: process for other, process in before.items() if other != name}


def test_a_worker_that_is_killed_is_replaced(running: Platform) -> None:
    before = {worker["pid"] for worker in assert_well(running)["inference"]["workers"]}
    os.kill(min(before), signal.SIGKILL)

    def replaced() -> None:
        now = {worker["pid"] for worker in assert_well(running)["inference"]["workers"]}
        assert len(now) == len(before)
        assert min(before) not in now

    eventually(replaced, RESTART_SECONDS)


def test_the_components_outlive_their_supervisor_and_the_next_up_takes_them_over(
    running: Platform,
) -> None:
    before, supervisor = leaders(running.state), load(running.state).supervisor
    assert supervisor
    os.kill(supervisor.pid, signal.SIGKILL)
    eventually(lambda: _is(status(running)["supervisor"]["state"], "dead"))
    assert HTTP.get(f"{running.inference_url}/health").status_code == 200
    os.kill(before["shipper"].pid, signal.SIGKILL)
    eventually(lambda: _is(status(running)["shipper"]["state"], "dead"))

    assert running.run("status").returncode == 75
    other_environment = {**bare_environment(), "TZ": "Asia/Tokyo", "LANG": "C.UTF-8"}
    assert_succeeded(
        subprocess.run(
            _up(running.state, "--detach"),
            env=other_environment,
            capture_output=True,
            text=True,
            check=False,
        ),
        "runs already",
    )
    now = leaders(running.state)
    assert now.pop("shipper") != before.pop("shipper")
    assert now == before
    assert_well(running)


def test_a_second_up_joins_the_first(running: Platform) -> None:
    before = leaders(running.state)
    for arguments in (["up"], ["up", "--detach"]):
        second = running.run(*arguments)
        assert_succeeded(second, "already running")
        assert running.inference_url in second.stdout
    assert leaders(running.state) == before


def test_down_stops_what_a_killed_supervisor_left_and_two_concurrent_ups_start_one_product(
    running: Platform,
) -> None:
    processes, supervisor = all_processes(running.state), load(running.state).supervisor
    assert supervisor
    os.kill(supervisor.pid, signal.SIGKILL)
    for _ in range(2):
        assert_succeeded(running.run("down"), "nothing runs")
        assert_nothing_runs(running.state, processes)

    racing = [
        subprocess.Popen(
            _up(running.state, "--detach"), env=bare_environment(), stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    assert [(up.communicate(timeout=120)[1], up.returncode)[1] for up in racing] == [0, 0]
    assert all(len(shutdown_policies(running.state)[name].orphans()) == 1 for name in COMPONENTS)


def test_concurrent_products_get_different_ports_and_stop_by_down_or_an_interrupt(
    running: Platform, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        begun = [stack.enter_context(down_at_the_end(tmp_path / name)) for name in ("one", "two")]
        foreground, detached = (
            subprocess.Popen(
                _up(each.state, *how, "--workers", "1"),
                env=bare_environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for each, how in zip(begun, ((), ("--detach",)), strict=True)
        )
        errors = detached.communicate(timeout=180)[1]
        assert detached.returncode == 0, errors
        eventually(lambda: [assert_well(each) for each in begun])
        chosen = [load(each.state).run_config for each in (running, *begun)]
        assert (
            len(
                {
                    port
                    for each in chosen
                    if each
                    for port in (each.inference_port, each.mlflow_port, each.postgresql_port)
                }
            )
            == 9
        )
        processes = [all_processes(each.state) for each in begun]

        foreground.send_signal(signal.SIGINT)
        output, notices = foreground.communicate(timeout=60)
        assert (foreground.returncode, b"/docs" in output) == (0, True), notices
        assert_nothing_runs(
            begun[0].state, [process for process in processes[0] if process.pid != foreground.pid]
        )
        assert_well(begun[1])
        assert_succeeded(begun[1].run("down"), "nothing runs")
        assert_nothing_runs(begun[1].state, processes[1])
        assert_well(running)
        logs = [notices, (begun[1].state.logs / "supervisor.log").read_bytes()]
        assert not [log for log in logs if b"choosing again" in log]


def test_status_prints_the_same_as_text_and_as_json(running: Platform) -> None:
    as_json, as_text = running.run("status", "--json"), running.run("status")
    assert (as_json.returncode, as_text.returncode) == (0, 0)
    parsed = json.loads(as_json.stdout)
    for name in ("inference", "mlflow"):
        assert all(str(pid) in as_text.stdout for pid in parsed[name]["pids"])
    workers = {worker["pid"] for worker in parsed["inference"]["workers"]}
    assert workers < set(parsed["inference"]["pids"])
    assert parsed["inference"]["url"] == running.inference_url


def test_secrets_are_only_in_files_that_only_their_owner_reads(running: Platform) -> None:
    state = running.state
    for path in (
        state.endpoints,
        state.admin_token,
        state.root / "supervisor.json",
        state.verdict_key,
        state.waiver_key,
        *state.postgresql.glob("*.password"),
    ):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert state.keys.stat().st_mode & 0o777 == 0o700
    keys = json.loads(running.run("keys", "list", "--json").stdout)
    assert {(key["purpose"], key["signs"]) for key in keys} == {("verdict", True), ("waiver", True)}
    secrets = [
        running.admin_token,
        *(path.read_text() for path in state.postgresql.glob("*.password")),
        # The first line of a PEM file is not secret.
        *(path.read_text().splitlines()[1] for path in (state.verdict_key, state.waiver_key)),
    ]
    shown = [" ".join(process.cmdline()) for process in all_processes(state)] + [
        running.run("status").stdout,
        running.run("status", "--json").stdout,
    ]
    shown += [log.read_text() for log in state.logs.iterdir()]
    assert not [secret for secret in secrets for text in shown if secret in text]


def _is(value: str, expected: str) -> None:
    assert value == expected


def _up(state: State, *arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "services.supervisor",
        "up",
        "--state",
        str(state.root),
        *arguments,
    ]
