"""The process that verifies bundles: its replacement, its end, and downloads that hang."""

import contextlib
import errno
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from fraudops.settings import InferenceSettings
from services.inference.pod.bundle_verifier import BundleVerifier
from services.inference.pod.worker_channel import RunFolder
from tests.support.serving import Service, problem
from tests.support.waiting import eventually


@pytest.fixture
def endless_registry() -> Iterator[str]:
    """Yield the URL of a registry that sends one header byte after another and never ends."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_endlessly() -> None:
            listener.settimeout(0.2)
            with contextlib.ExitStack() as kept:
                answering: list[socket.socket] = []
                while not over.is_set():
                    with contextlib.suppress(TimeoutError):
                        answering.append(kept.enter_context(listener.accept()[0]))
                        answering[-1].sendall(b"HTTP/1.1 200 OK\r\nendless: ")
                    for connection in answering:
                        with contextlib.suppress(OSError):
                            connection.sendall(b"x")

        thread = threading.Thread(target=answer_endlessly)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        over.set()
        thread.join()


@pytest.fixture
def service(tmp_path: Path, endless_registry: str) -> Iterator[Service]:
    started = Service(
        tmp_path / "state", workers=1, environment={"MLFLOW_TRACKING_URI": endless_registry}
    )
    try:
        yield started.promoted(1)
    finally:
        started.kill()


def verifier_process(service: Service) -> psutil.Process:
    assert service.process is not None
    (process,) = (
        child
        for child in psutil.Process(service.process.pid).children()
        if child.pid not in service.worker_pids()
    )
    return process


def promote(service: Service, seed: int) -> None:
    answer = service.reload(epoch=service.record(str(seed), service.bundle(seed)))
    assert answer.status_code == 200, answer.text
    assert answer.json()["version"] == str(seed)


def assert_gone(process: psutil.Process) -> None:
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_verifier_that_dies_is_replaced_and_a_promotion_waits_for_the_next(
    service: Service,
) -> None:
    first = verifier_process(service)
    first.kill()
    promote(service, 2)
    assert "has died and is replaced" in service.log
    assert verifier_process(service).pid != first.pid
    promote(service, 3)
    # An inherited listening socket would keep the port taken after the service has ended.
    assert [
        connection
        for connection in verifier_process(service).net_connections("tcp")
        if connection.laddr.port == service.port
    ] == []


def test_a_verifier_that_dies_within_the_start_is_replaced_and_the_cached_bundle_served(
    tmp_path: Path,
) -> None:
    started = Service(
        tmp_path / "state", workers=1, program=("tests.support.dead_verifier", "services.inference")
    )
    try:
        started.promoted(1)
        assert "has died and is replaced" in started.log
        assert "the cached bundle is not served" not in started.log
    finally:
        started.kill()


def test_signals_that_stop_the_service_do_not_end_its_verifier_first(service: Service) -> None:
    before = verifier_process(service)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        before.send_signal(number)
    promote(service, 2)
    assert verifier_process(service).pid == before.pid
    service.stop()
    eventually(lambda: assert_gone(before))


@pytest.mark.parametrize("end", ["deadline", "kill"])
def test_a_download_that_hangs_ends_with_its_request(service: Service, end: str) -> None:
    verifier, answers = verifier_process(service), list[str]()
    seconds = 2 if end == "deadline" else 60

    def ask() -> None:
        try:
            answers.append(
                problem(
                    service.reload(
                        phase="prepare",
                        version="7",
                        digest=service.known(7),
                        epoch=9,
                        deadline_seconds=seconds,
                    )
                )["detail"]
            )
        except httpx.TransportError:
            answers.append("cut off")

    asking = threading.Thread(target=ask)
    asking.start()
    (download,) = eventually(lambda: _some(verifier.children()))
    eventually(lambda: _is_nice(download))
    if end == "kill":
        service.kill()
        eventually(lambda: assert_gone(verifier))
    asking.join()
    eventually(lambda: assert_gone(download))
    if end == "deadline":
        assert answers == ["version 7 was not fetched and verified within 2 s"]
        assert verifier.children() == []
        promote(service, 2)


def test_a_fork_that_fails_ends_nothing_and_is_tried_again_a_second_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    forks = list[None]()

    def refuse() -> int:
        forks.append(None)
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    bundle_verifier = BundleVerifier(
        InferenceSettings(state=tmp_path), RunFolder(tmp_path), os.pipe()
    )
    bundle_verifier.keep()
    bundle_verifier.keep()
    assert len(forks) == 1
    assert "bundles cannot be verified now" in caplog.text

    def tried_again() -> None:
        bundle_verifier.keep()
        assert len(forks) == 2

    eventually(tried_again)
    bundle_verifier.leave()


def _is_nice(process: psutil.Process) -> None:
    assert process.nice() == 10


def _some(children: list[psutil.Process]) -> list[psutil.Process]:
    assert children
    return children


def test_a_verification_that_is_killed_refuses_the_version_and_nothing_else(
    service: Service,
) -> None:
    verifier = verifier_process(service)
    killing = threading.Thread(
        target=lambda: os.kill(
            eventually(lambda: _some(verifier.children()))[0].pid, signal.SIGKILL
        )
    )
    killing.start()
    answer = service.reload(
        phase="prepare", version="7", digest=service.known(7), epoch=9, deadline_seconds=60
    )
    killing.join()
    assert answer.status_code == 503
    assert "verifies version 7 ended without an answer" in problem(answer)["detail"]
    assert verifier_process(service).pid == verifier.pid
    assert service.predict().status_code == 200
    promote(service, 2)
