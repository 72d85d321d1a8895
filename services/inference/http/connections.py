"""The open connections of one worker: their number, their time limits, and their end.

No timer runs for a single answer. Each connection knows when its present stage ends, and one sweep
a second acts on what is overdue.
"""

import asyncio
from time import perf_counter
from typing import Protocol

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
# Connections above the limit that are open until their clients have read why.
MOST_TURNED_AWAY = 64
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
    answered: bool

    @property
    def idle(self) -> bool:
        """Whether it may close to make room for another one."""

    def expire(self, now: float) -> None:
        """Act on a stage that has lasted too long."""

    def close(self) -> None: ...

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
        # In the order in which they were opened.
        self._open: dict[Connection, None] = {}
        self._turned_away: set[Connection] = set()

    def opened(self, connection: Connection) -> None:
        """Register a new connection; if there are too many, another one or this one closes."""
        if len(self._open) >= self._most:
            if idle := self._longest_idle():
                self._open.pop(idle)
                idle.close()
            else:
                self._turn_away(connection)
                return
        self._open[connection] = None
        self._metrics.connections(len(self._open))

    def closed(self, connection: Connection) -> None:
        self._open.pop(connection, None)
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
        for connection in list(self._open):
            if connection.due <= now or connection.unread_since is not None:
                connection.expire(now)

    def _longest_idle(self) -> Connection | None:
        """Return the oldest connection without any answer, else the one that is idle longest."""
        longest = None
        for connection in self._open:
            if not connection.idle:
                continue
            if not connection.answered:
                return connection
            if longest is None or connection.due < longest.due:
                longest = connection
        return longest

    def _turn_away(self, connection: Connection) -> None:
        if len(self._turned_away) >= MOST_TURNED_AWAY:
            self._metrics.connection_refused("too_many")
            connection.abort()
            return
        self._turned_away.add(connection)
        connection.refuse(TooManyConnectionsError())
