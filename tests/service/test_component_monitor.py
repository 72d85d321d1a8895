"""The supervisor's component monitor over small programs, and its ports, settings and logs."""

import asyncio
import contextlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fraudops.errors import SettingsError
from fraudops.state import State
from services.supervisor import component_monitor as monitor
from services.supervisor import components, logs, ports, probes, supervisor
from services.supervisor.component_monitor import ComponentMonitor, PortTakenError
from services.supervisor.components import Component
from services.supervisor.postgresql import PostgreSQL
from services.supervisor.probes import ProbeError
from services.supervisor.processes import Handle, ShutdownPolicy, session_members, terminate
from services.supervisor.record import ComponentRecord, Record, RunConfig
from tests.support.processes import free_port

SLEEP = "import time; time.sleep(600)"
ENDING = ShutdownPolicy(signal.SIGTERM, 5.0, session_members, list)
Make = Callable[..., ComponentMonitor]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for pause in (
        "LOOK_SECONDS",
        "MISSED_PAUSE_SECONDS",
        "PROBE_PAUSE_SECONDS",
        "FIRST_PAUSE_SECONDS",
    ):
        monkeypatch.setattr(monitor, pause, 0.01)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Return a maker of monitors: its component runs a Python text and is checked by `probe`."""

    def monitor_of(
        name: str, text: str, probe: Callable[[Handle], None] = lambda _: None, **more: object
    ) -> ComponentMonitor:
        command = (sys.executable, "-I", "-S", "-c", text)
        part = Component(
            name=name,
            command=command,
            environment={},
            folder=tmp_path,
            shutdown=ENDING,
            probe=probe,
            **more,
        )  # type: ignore[arg-type]
        return ComponentMonitor(part, ComponentRecord(), tmp_path / f"{name}.log", lambda: None)

    return monitor_of


@contextlib.asynccontextmanager
async def kept(*monitors: ComponentMonitor) -> AsyncIterator[list[asyncio.Task[None]]]:
    others = {monitor.component.name: monitor for monitor in monitors}
    tasks = [asyncio.create_task(monitor.run(others)) for monitor in monitors]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in monitors:
            await each.stop()


async def until(check: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_component_that_fails_five_times_is_given_up_with_its_last_words_until_up_is_run(
    make: Make, tmp_path: Path
) -> None:
    mended = tmp_path / "mended"
    one = make(
        "fragile",
        "import os, sys, time\n"
        f"if os.path.exists({str(mended)!r}):\n"
        "    time.sleep(600)\n"
        "sys.exit('Error: the wheel is off')",
    )
    async with kept(one):
        await until(lambda: one.record.phase == "gave up")
        assert one.record.restarts == monitor.TRIES
        assert "Error: the wheel is off" in (one.record.reason or "")
        assert one.record.process is None
        mended.touch()
        one.retry.set()
        await until(lambda: one.record.phase == "running")


async def test_a_component_that_lives_but_does_not_answer_is_started_again(make: Make) -> None:
    silent: set[Handle] = set()

    def probe(process: Handle) -> None:
        if process in silent:
            raise ProbeError("silence")

    one = make("silent", SLEEP, probe)
    async with kept(one):
        await until(one.running.is_set)
        first = one.record.process
        assert first
        silent.add(first)
        await until(lambda: one.record.restarts == 1 and one.record.phase == "running")
        assert not first.alive
        assert one.record.reason == "it stopped answering: silence"


async def test_a_component_that_is_halted_is_started_again(make: Make) -> None:
    one = make("halted", SLEEP)
    async with kept(one):
        await until(one.running.is_set)
        assert one.record.process
        os.kill(one.record.process.pid, signal.SIGSTOP)
        await until(lambda: one.record.restarts == 1 and one.record.phase == "running")
        assert "halted by a signal" in (one.record.reason or "")


async def test_failed_probes_do_not_count_while_a_dependency_is_down(make: Make) -> None:
    probed = []
    store = make("store", SLEEP)

    def probe(_: Handle) -> None:
        probed.append(store.running.is_set())
        if not store.running.is_set():
            raise ProbeError("no store")

    reader = make("reader", SLEEP, probe, needs=("store",))
    async with kept(store, reader):
        await until(reader.running.is_set)
        store.running.clear()
        probed.clear()
        await until(lambda: len(probed) > 2 * monitor.MISSES)
        store.running.set()
        assert (reader.record.restarts, reader.record.phase) == (0, "running")


async def test_orphans_of_a_dead_component_are_ended_before_it_is_started_again(make: Make) -> None:
    port = free_port()
    orphan_holds_the_port = (
        "import os, socket, time\n"
        f"listener = socket.create_server(('127.0.0.1', {port}))\n"
        "os.fork()\n"
        "time.sleep(600)"
    )

    def probe(_: Handle) -> None:
        if not ports.is_taken("127.0.0.1", port):
            raise ProbeError("it does not listen yet")

    one = make("leader", orphan_holds_the_port, probe, address=("127.0.0.1", port))
    async with kept(one):
        await until(
            lambda: (
                one.running.is_set()
                and one.record.process is not None
                and len(session_members(one.record.process)) == 2
            )
        )
        first = one.record.process
        assert first
        left = session_members(first)
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: one.record.restarts == 1 and one.record.phase == "running")
        assert not [
            process
            for process in left
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        ]
    assert not ports.is_taken("127.0.0.1", port)


async def test_a_port_lost_before_the_first_start_calls_for_another(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        one = make("late", SLEEP, address=("127.0.0.1", stranger.getsockname()[1]))
        async with kept(one) as [task]:
            with pytest.raises(PortTakenError, match=f"taken by process {os.getpid()} "):
                await asyncio.wait_for(asyncio.shield(task), 10)


async def test_an_answer_of_another_process_is_not_taken_for_the_components_own(make: Make) -> None:
    """The stranger takes the port after the monitor saw it free, so the component fails to bind."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    one = make(
        "robbed",
        "from http.server import HTTPServer, SimpleHTTPRequestHandler\n"
        f"HTTPServer(('127.0.0.1', {port}), SimpleHTTPRequestHandler)",
    )
    stranger = http.server.ThreadingHTTPServer(
        ("127.0.0.1", port), http.server.SimpleHTTPRequestHandler, bind_and_activate=False
    )

    async def rob() -> tuple[str, ...]:
        stranger.server_bind()
        stranger.server_activate()
        threading.Thread(target=stranger.serve_forever, args=[0.05]).start()
        assert probes.get(url)[0] == 200
        return one.component.command

    one.component = replace(
        one.component,
        address=("127.0.0.1", port),
        prepare=rob,
        probe=lambda process: probes.expect_200(process, url),
    )
    try:
        async with kept(one) as [task]:
            with pytest.raises(PortTakenError, match=f"taken by process {os.getpid()} "):
                await asyncio.wait_for(asyncio.shield(task), 20)
            assert "Address already in use" in (one.record.reason or "")
            assert not one.running.is_set()
    finally:
        await asyncio.to_thread(stranger.shutdown)
        stranger.server_close()


async def test_when_its_folder_is_removed_the_supervisor_stops_everything(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State.at(tmp_path / "state")
    server = PostgreSQL(state.postgresql, free_port())
    server.make_passwords()
    state.logs.mkdir()
    monkeypatch.setattr(supervisor, "HOUSEKEEPING_SECONDS", 0.05)
    monkeypatch.setattr(
        components,
        "build",
        lambda *_: {
            name: make(name, SLEEP).component for name in components.shutdown_policies(state)
        },
    )
    record = Record()
    with ports.PortClaims() as claims:
        choices = ports.choose_ports(claims, None, None, None, None)
    running = asyncio.create_task(
        supervisor.Supervisor(state, record, choices, server, "token", lambda _: None).run()
    )
    await until(lambda: all(part.phase == "running" for part in record.components.values()))
    processes = [part.process for part in record.components.values() if part.process]
    shutil.rmtree(state.root)
    assert await asyncio.wait_for(running, 20)
    assert [process.alive for process in processes] == [False] * 4


def test_a_program_that_ignores_the_request_to_stop_is_killed() -> None:
    stubborn = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        "import signal, time\n"
        "signal.signal(15, signal.SIG_IGN)\n"
        "print('up', flush=True)\n"
        "time.sleep(600)",
    ]
    with subprocess.Popen(stubborn, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        process.stdout.readline()
        assert asyncio.run(terminate(Handle.of(process.pid), ENDING, seconds=0.1))
        assert process.wait(5) == -signal.SIGKILL


def test_a_stranger_with_the_same_pid_is_not_ours() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", SLEEP], start_new_session=True
    ) as process:
        ours = Handle.of(process.pid)
        strangers = (
            Handle(ours.pid, ours.started + 1, ours.boot),
            Handle(ours.pid, ours.started, "another boot"),
        )
        seen = [
            (handle.alive, [member.pid for member in session_members(handle)])
            for handle in (ours, *strangers)
        ]
        process.kill()
    assert seen == [(True, [ours.pid]), (False, []), (False, [])]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def claims() -> Iterator[ports.PortClaims]:
    with ports.PortClaims() as held:
        yield held


def test_ports_are_kept_unless_taken_and_requested_ports_are_never_replaced(
    claims: ports.PortClaims, taken_port: int
) -> None:
    free = free_port()
    kept_choices = RunConfig(
        host="127.0.0.1",
        workers=3,
        inference_port=taken_port,
        mlflow_port=free,
        postgresql_port=taken_port,
    )
    again = ports.choose_ports(claims, kept_choices, None, None, None)
    assert (again.mlflow_port, again.workers) == (free, 3)
    assert taken_port not in (again.inference_port, again.postgresql_port)
    assert (
        ports.choose_ports(
            claims, kept_choices, None, None, None, living=["inference"]
        ).inference_port
        == taken_port
    )
    with pytest.raises(
        SettingsError, match=f"port {taken_port} is taken by process {os.getpid()} "
    ):
        ports.choose_ports(claims, None, None, taken_port, None)
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1"):
        ports.choose_ports(claims, None, "192.0.2.1", None, None)


def test_a_port_requested_once_is_never_replaced_at_the_next_start(
    claims: ports.PortClaims, taken_port: int
) -> None:
    first = ports.choose_ports(claims, None, None, free_port(), None)
    assert first.port_given
    assert (
        ports.choose_ports(claims, first, None, None, None).inference_port == first.inference_port
    )
    moved = RunConfig(
        host="127.0.0.1",
        workers=2,
        inference_port=taken_port,
        mlflow_port=0,
        postgresql_port=0,
        port_given=True,
    )
    with pytest.raises(SettingsError, match="choose another with --port"):
        ports.choose_ports(claims, moved, None, None, None)


def test_a_port_that_is_chosen_is_given_to_no_other_supervisor_before_a_component_listens_there(
    claims: ports.PortClaims,
) -> None:
    ours = ports.choose_ports(claims, None, None, None, None)
    with ports.PortClaims() as others:
        theirs = ports.choose_ports(others, None, None, None, None)
        assert not {ours.inference_port, ours.mlflow_port, ours.postgresql_port} & {
            theirs.inference_port,
            theirs.mlflow_port,
            theirs.postgresql_port,
        }
        with pytest.raises(
            SettingsError, match=f"port {ours.inference_port} is kept by another fraudops"
        ):
            ports.choose_ports(others, None, None, ours.inference_port, None)


def test_a_claim_ends_with_its_holder(claims: ports.PortClaims) -> None:
    port = free_port()
    with ports.PortClaims() as others:
        assert others.claim(port)
        assert not claims.claim(port)
    assert claims.claim(port)


def test_the_port_of_a_living_component_is_claimed_by_the_supervisor_that_takes_it_over(
    claims: ports.PortClaims, taken_port: int
) -> None:
    before = RunConfig(
        host="127.0.0.1", workers=2, inference_port=0, mlflow_port=taken_port, postgresql_port=0
    )
    assert (
        ports.choose_ports(claims, before, None, None, None, living=["mlflow"]).mlflow_port
        == taken_port
    )
    with ports.PortClaims() as others:
        assert not others.claim(taken_port)


def test_components_get_what_they_need_of_the_environment_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "SOMEBODYS_SECRET",
        "PYTHONDONTWRITEBYTECODE",
        "FRAUDOPS_DATA",
        "FRAUDOPS_LOG_LEVEL",
        "HTTPS_PROXY",
        "HOME",
    ):
        monkeypatch.setenv(name, "from the shell")
    monkeypatch.setenv("NO_PROXY", "of.the.shell")
    state = State.at(tmp_path)
    server = PostgreSQL(state.postgresql, free_port())
    server.make_passwords()
    built = components.build(
        state,
        RunConfig(host="127.0.0.1", workers=2, inference_port=1, mlflow_port=2, postgresql_port=3),
        server,
        "token",
    )
    passed_on = {
        name: {key for key, value in part.environment.items() if value == "from the shell"}
        for name, part in built.items()
    }
    assert passed_on["postgresql"] == set()
    assert passed_on["mlflow"] == {"HOME", "HTTPS_PROXY"}
    services = {"HOME", "HTTPS_PROXY", "FRAUDOPS_LOG_LEVEL"}
    assert passed_on["inference"] == passed_on["shipper"] == services
    assert all(
        {"127.0.0.1", "of.the.shell"} <= set(part.environment["NO_PROXY"].split(","))
        for name, part in built.items()
        if name != "postgresql"
    )
    assert "DATABASE_URL" not in built["inference"].environment
    assert "FRAUDOPS_ADMIN_TOKEN" not in built["shipper"].environment


def test_logs_stay_within_bounds_while_they_are_written_to(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    with log.open("ab", buffering=0) as part:
        part.write(b"x" * 100)
        logs.truncate_large_logs(tmp_path, max_bytes=50)
        part.write(b"new\n")
    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "part.log.1").stat().st_size == 100


def test_the_last_words_in_a_log_are_the_reason_and_not_the_shutdown_line(tmp_path: Path) -> None:
    log = tmp_path / "part.log"
    assert logs.last_error_line(log) == ""
    log.write_text("starting\nFATAL:  could not bind\nLOG:  shut down\n\n")
    assert logs.last_error_line(log) == "FATAL:  could not bind"
    log.write_text("starting\nall is well\n")
    assert logs.last_error_line(log) == "all is well"
