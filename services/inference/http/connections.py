"""The open connections of one worker: their number, their time limits, and their end.

No timer runs for a single answer. Each connection knows when its present stage ends, and one sweep
a second acts on what is overdue.
"""

import asyncio
from time import perf_counter
from typing import Literal, Protocol

from fraudops.settings import HttpSettings
from services.inference.http.problems import (
    HeadTooLargeError,
    SlowHeadError,
    TooManyConnectionsError,
    TooManyWaitingError,
    UrlTooLongError,
)
from services.inference.metrics import Metrics

SWEEP_SECONDS = 1.0
# A client that reads nothing of its answer, or whose connection does not close, is cut off.
UNREAD_SECONDS = 30.0
# After a stop, a client may be about to send on an idle connection.
GRACE_SECONDS = 2.0
# New clients that may be about to send their first request. More of them are a flood.
NEW_CLIENTS = 7
# Connections above the limit that are open until their clients have read why.
MOST_TURNED_AWAY = 64
# For what a connection waits: the end of a head, also of the first one; another request of a client
# that had its answer; or the rest of a body, the reading of an answer, the end of the connection.
Stage = Literal["head", "idle", "stuck"]
# Descriptors of a worker for its files and its own sockets.
OWN_DESCRIPTORS = 128
_REASONS: dict[type[Exception], str] = {
    UrlTooLongError: "url_too_long",
    HeadTooLargeError: "head_too_large",
    SlowHeadError: "slow_head",
    TooManyConnectionsError: "too_many",
    TooManyWaitingError: "too_many",
}


class Connection(Protocol):
    """What the registry needs of a connection; `due` is a time of perf_counter."""

    due: float
    unread_since: float | None

    @property
    def stage(self) -> Stage | None:
        """What the connection waits for, or None while the service works for it."""

    def expire(self, now: float) -> None:
        """Act on a stage that has lasted too long."""

    def give_way(self) -> None:
        """End now, to make room."""

    def refuse(self, error: Exception) -> None:
        """Answer with an error and close."""

    def abort(self) -> None: ...


class Connections:
    """The registry of the open connections; only the event loop uses it."""

    def __init__(self, limits: HttpSettings, metrics: Metrics, descriptors: int) -> None:
        """`descriptors` is the highest number of files that the process may open."""
        self.limits, self._metrics = limits, metrics
        self.grace_seconds = GRACE_SECONDS
        self._most = min(limits.max_connections, max(1, descriptors - OWN_DESCRIPTORS))
        self._open: set[Connection] = set()
        self._turned_away: set[Connection] = set()
        # The connections that wait, the longest first. An entry stays when its connection goes
        # on, and is dropped when room is needed. So a request makes an entry or two, and nothing is
        # searched.
        self._waiting: dict[Stage, dict[Connection, None]] = {"head": {}, "idle": {}, "stuck": {}}

    def opened(self, connection: Connection) -> None:
        """Register a new connection; if there are too many, another one or this one closes."""
        if len(self._open) >= self._most:
            longest = self._longest_waiting()
            if longest is None:
                self._turn_away(connection)
                return
            self._forget(longest)
            longest.give_way()
        self._open.add(connection)
        self.waits(connection, "head")
        self._metrics.connections(len(self._open))

    def waits(self, connection: Connection, stage: Stage) -> None:
        """Note that a connection waits for its client from now on."""
        if connection in self._open:
            queue = self._waiting[stage]
            queue.pop(connection, None)
            queue[connection] = None

    def closed(self, connection: Connection) -> None:
        self._forget(connection)
        self._turned_away.discard(connection)
        self._metrics.connections(len(self._open))

    def refused(self, error: Exception, status: int) -> None:
        """Count a request that was refused before its route was known. No line is logged."""
        self._metrics.connection_refused(_REASONS.get(type(error), "not_http"))
        self._metrics.answered("other", "other", status, 0.0)

    async def run(self) -> None:
        """Sweep again and again until this task is cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(perf_counter())

    def sweep(self, now: float) -> None:
        """Act on each connection whose stage has lasted too long."""
        for connection in (*self._open, *self._turned_away):
            if connection.due <= now or connection.unread_since is not None:
                connection.expire(now)

    def _longest_waiting(self) -> Connection | None:
        """Return the connection that makes room, or None if the service works for all.

        A flood of half heads must not push out clients that are kept alive. A few half heads belong
        to new clients, so they go last. A body may be that of a slow but honest client.
        """
        return (
            self._first("head", NEW_CLIENTS + 1)
            or self._first("idle")
            or self._first("stuck")
            or self._first("head")
        )

    def _first(self, stage: Stage, least: int = 1) -> Connection | None:
        """Return the connection that came into a stage first, if at least `least` are in it."""
        queue, found, old = self._waiting[stage], list[Connection](), list[Connection]()
        for connection in queue:
            if connection.stage != stage:
                old.append(connection)
                continue
            found.append(connection)
            if len(found) == least:
                break
        # When such a connection waits again, `waits` makes another entry.
        for connection in old:
            del queue[connection]
        return found[0] if len(found) == least else None

    def _forget(self, connection: Connection) -> None:
        self._open.discard(connection)
        for queue in self._waiting.values():
            queue.pop(connection, None)

    def _turn_away(self, connection: Connection) -> None:
        if len(self._turned_away) >= MOST_TURNED_AWAY:
            self._metrics.connection_refused("too_many")
            connection.abort()
            return
        self._turned_away.add(connection)
        connection.refuse(TooManyConnectionsError())
