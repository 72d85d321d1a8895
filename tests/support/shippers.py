"""A shipper process on its own state folder, and checks of the table and the spool."""

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from fraudops.audit.shipper_status import ShipperStatus, read_shipper_status
from fraudops.state import State
from tests.support.waiting import eventually
from tests.support.warm_start import Process

CARD = "4111111111111111"


@dataclass
class RunningShipper:
    state: State
    process: Process
    log: Path

    @property
    def status(self) -> ShipperStatus:
        status = read_shipper_status(self.state)
        assert status
        assert status.pid == self.process.pid
        return status

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)


Start = Callable[..., RunningShipper]


def ids(url: str, table: str = "predictions") -> list[str]:
    with psycopg.connect(url) as connection:
        return [
            str(row[0])
            for row in connection.execute(
                sql.SQL("SELECT id FROM {} ORDER BY id").format(sql.Identifier(table))
            )
        ]


def expect(url: str, expected: list[str], seconds: float = 20) -> None:
    """Wait until the table holds exactly the predictions with these ids."""

    def all_there() -> None:
        assert ids(url) == sorted(expected)

    eventually(all_there, seconds)


def expect_empty(state: State) -> None:
    """Wait until all segments are shipped and removed; only the lock file stays."""

    def nothing_left() -> None:
        assert [path.name for path in state.spool.iterdir() if path.is_file()] == ["shipper.lock"]

    eventually(nothing_left)


def dead_letters(state: State) -> list[dict[str, str]]:
    lines = [
        line
        for path in sorted((state.spool / "aside").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [json.loads(line) for line in lines]
