"""Fixtures that start shipper processes and end them with the test."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraudops.state import State
from tests.support.shippers import RunningShipper, Start
from tests.support.warm_start import start_python


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State.at(tmp_path / "state")


@pytest.fixture
def start_shipper(state: State, tmp_path: Path) -> Iterator[Start]:
    started: list[RunningShipper] = []

    def begin(url: str, **more: str) -> RunningShipper:
        log = tmp_path / "shipper.log"
        environment = {**os.environ, "DATABASE_URL": url, "FRAUDOPS_STATE": str(state.root), **more}
        with log.open("ab") as output:
            process = start_python(["-m", "services.shipper"], environment, output)
        started.append(RunningShipper(state, process, log))
        return started[-1]

    yield begin
    for shipper in started:
        if shipper.process.poll() is None:
            shipper.end(signal.SIGKILL)
