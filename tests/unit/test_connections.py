"""The registry of connections: which one closes when there are too many, or when it is overdue."""

from typing import Any

import pytest

from fraudops.settings import HttpSettings
from services.inference.http import connections as registry
from services.inference.http.connections import Connections, Stage
from services.inference.http.problems import TooManyConnectionsError


class CountedMetrics:
    def __init__(self) -> None:
        self.open, self.refused = 0, list[str]()

    def connections(self, number: int) -> None:
        self.open = number

    def connection_refused(self, reason: str) -> None:
        self.refused.append(reason)


class Client:
    """A connection that remembers what was done to it, and how often its stage was read."""

    def __init__(self, stage: Stage | None = "head", due: float = 1) -> None:
        self.now_in, self.due, self.looks = stage, due, 0
        self.unread_since: float | None = None
        self.done: list[str] = []

    @property
    def stage(self) -> Stage | None:
        self.looks += 1
        return self.now_in

    def expire(self, now: float) -> None:
        self.done.append("expired")

    def give_way(self) -> None:
        self.done.append("gone")

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


FLOOD: tuple[Stage, ...] = ("head",) * (registry.NEW_CLIENTS + 1)


@pytest.mark.parametrize(
    ("stages", "gone"),
    [
        # The first of a flood of half heads, though others wait longer.
        (("stuck", "idle", *FLOOD), 2),
        (("idle", None, *FLOOD[1:]), 0),
        (("head", "stuck", "idle", "idle"), 2),
        (("head", None, "stuck", "stuck"), 2),
        ((None, "head", "head"), 1),
        ((None, "stuck", "stuck"), 1),
        ((None, None), None),
    ],
)
def test_the_connection_that_waits_longest_for_its_client_makes_room(
    stages: tuple[Stage | None, ...], gone: int | None
) -> None:
    clients = [Client(stage) for stage in stages]
    connections, metrics = full(*clients)
    for client in clients:
        if client.now_in:
            connections.waits(client, client.now_in)
    new = Client()
    connections.opened(new)
    assert [client.done for client in clients] == [
        ["gone"] if number == gone else [] for number in range(len(clients))
    ]
    assert new.done == ([] if gone is not None else ["refused"])
    assert metrics.open == len(clients)


@pytest.mark.parametrize("other", ["idle", "stuck"])
def test_a_new_client_has_the_time_to_send_its_request(other: Stage) -> None:
    new, kept = Client(), Client(other)
    connections, _ = full(new, kept)
    connections.waits(kept, other)
    connections.opened(Client(None))
    assert (kept.done, new.done) == (["gone"], [])
    connections.opened(Client(None))
    assert new.done == ["gone"]


def test_a_connection_that_waits_again_is_the_last_to_make_room() -> None:
    first, second = Client("idle"), Client("idle")
    connections, _ = full(first, second)
    for client in (first, second, first):
        connections.waits(client, "idle")
    connections.opened(Client(None))
    assert (first.done, second.done) == ([], ["gone"])
    connections.opened(Client(None))
    assert first.done == ["gone"]
    connections.opened(late := Client())
    assert late.done == ["refused"]


def test_no_place_can_be_held_by_waiting() -> None:
    """Each new connection takes the place of one whose client stopped within a request."""
    holders = [Client(stage) for stage in ("stuck", "head") for _ in range(50)]
    connections, metrics = full(*holders)
    for holder in holders:
        assert holder.now_in
        connections.waits(holder, holder.now_in)
    newcomers = [Client(None) for _ in holders]
    for client in newcomers:
        connections.opened(client)
    assert [client.done for client in holders] == [["gone"]] * 100
    assert [client.done for client in newcomers] == [[]] * 100
    assert metrics.refused == []


def test_a_full_table_is_not_searched_for_each_connection() -> None:
    working = [Client(None) for _ in range(200)]
    connections, _ = full(*working)
    for client in working:
        connections.waits(client, "idle")
    for _ in range(50):
        connections.opened(Client())
    assert max(client.looks for client in working) <= 2


def test_nothing_is_kept_of_a_connection_that_is_closed_or_has_made_room() -> None:
    closed, evicted = Client("idle"), Client("idle")
    connections, metrics = full(closed, evicted)
    for client in (closed, evicted):
        connections.waits(client, "idle")
    connections.closed(closed)
    connections.opened(Client(None))
    connections.opened(Client(None))
    assert evicted.done == ["gone"]
    for client in (closed, evicted):
        # A timer may still run.
        connections.waits(client, "stuck")
    connections.opened(late := Client())
    assert (late.done, metrics.open) == (["refused"], 2)
    assert (closed.done, evicted.done) == ([], ["gone"])


def test_the_limit_of_the_settings_holds_below_that_of_the_process() -> None:
    metrics: Any = CountedMetrics()
    connections = Connections(HttpSettings(max_connections=64), metrics, 100_000)
    for _ in range(64):
        connections.opened(Client(None))
    assert metrics.open == 64
    late = Client()
    connections.opened(late)
    assert late.done == ["refused"]


def test_only_some_of_a_flood_are_told_why() -> None:
    connections, metrics = full(Client(None))
    flood = [Client() for _ in range(registry.MOST_TURNED_AWAY + 3)]
    for client in flood:
        connections.opened(client)
    assert [client.done for client in flood[-4:]] == [["refused"], *[["aborted"]] * 3]
    assert metrics.refused == ["too_many"] * 3
    connections.closed(flood[0])
    another = Client()
    connections.opened(another)
    assert another.done == ["refused"]


def test_a_sweep_acts_on_what_is_overdue_or_unread() -> None:
    due, later, unread = (Client(due=seconds) for seconds in (10, 11, 12))
    unread.unread_since = 5
    clients = (due, later, unread)
    connections, _ = full(*clients)
    for client in clients:
        client.now_in = None
    connections.opened(turned_away := Client(due=10))
    connections.sweep(10)
    assert [client.done for client in clients] == [["expired"], [], ["expired"]]
    assert turned_away.done == ["refused", "expired"]
