"""The registry of connections: which one closes when there are too many, or when it is overdue."""

from typing import Any

import pytest

from fraudops.settings import HttpSettings
from services.inference.http import connections as registry
from services.inference.http.connections import Connections
from services.inference.http.problems import TooManyConnectionsError


class CountedMetrics:
    def __init__(self) -> None:
        self.open, self.refused = 0, list[str]()

    def connections(self, number: int) -> None:
        self.open = number

    def connection_refused(self, reason: str) -> None:
        self.refused.append(reason)


class Client:
    """A connection that remembers what was done to it."""

    def __init__(self, due: float, idle: bool = True, answered: bool = False) -> None:
        self.due, self.idle, self.answered = due, idle, answered
        self.unread_since: float | None = None
        self.done: list[str] = []

    def expire(self, now: float) -> None:
        self.done.append("expired")

    def close(self) -> None:
        self.done.append("closed")

    def refuse(self, error: Exception) -> None:
        assert isinstance(error, TooManyConnectionsError)
        self.done.append("refused")

    def abort(self) -> None:
        self.done.append("aborted")


def full(*clients: Client) -> tuple[Connections, CountedMetrics]:
    """Return a registry that has room for exactly these clients."""
    metrics = CountedMetrics()
    descriptors = registry.OWN_DESCRIPTORS + len(clients)
    connections = Connections(HttpSettings(), metrics, descriptors)  # type: ignore[arg-type]
    for client in clients:
        connections.opened(client)
    assert metrics.open == len(clients)
    return connections, metrics


@pytest.mark.parametrize(
    ("others", "closed"),
    [
        # The oldest that has never had an answer, though another one is idle longer.
        ([Client(1, answered=True), Client(9), Client(8)], 1),
        ([Client(1, idle=False), Client(9, answered=True), Client(8, answered=True)], 2),
        ([Client(1, idle=False), Client(2, idle=False)], None),
    ],
)
def test_an_idle_connection_makes_room(others: list[Client], closed: int | None) -> None:
    connections, metrics = full(*others)
    new = Client(99)
    connections.opened(new)
    assert [client.done for client in others] == [
        ["closed"] if number == closed else [] for number in range(len(others))
    ]
    assert new.done == ([] if closed is not None else ["refused"])
    assert metrics.open == len(others)
    connections.closed(new)


def test_the_limit_of_the_settings_holds_below_that_of_the_process() -> None:
    metrics: Any = CountedMetrics()
    connections = Connections(HttpSettings(max_connections=64), metrics, 100_000)
    for _ in range(64):
        connections.opened(Client(1, idle=False))
    assert metrics.open == 64
    late = Client(1)
    connections.opened(late)
    assert late.done == ["refused"]


def test_only_some_of_a_flood_are_told_why() -> None:
    connections, metrics = full(Client(1, idle=False))
    flood = [Client(2) for _ in range(registry.MOST_TURNED_AWAY + 3)]
    for client in flood:
        connections.opened(client)
    assert [client.done for client in flood[-4:]] == [["refused"], *[["aborted"]] * 3]
    assert metrics.refused == ["too_many"] * 3
    connections.closed(flood[0])
    another = Client(3)
    connections.opened(another)
    assert another.done == ["refused"]


def test_a_sweep_acts_on_what_is_overdue_or_unread() -> None:
    due, later, unread = Client(10), Client(11), Client(12)
    unread.unread_since = 5
    connections, _ = full(due, later, unread)
    connections.sweep(10)
    assert [client.done for client in (due, later, unread)] == [["expired"], [], ["expired"]]
