"""`python -m benchmarks.client URL BODIES`: the bundled load generator.

It is one thread over plain sockets. With `--rate` it is an open loop: a Poisson process makes
requests due, also when earlier ones failed. A latency counts from the moment at which the
request was due, so it includes queueing. Without a rate, every connection sends its next request
as soon as it has its answer. Prints a line of JSON for each `--window`, and one for the whole run
at the end.
"""

import argparse
import ctypes
import gc
import math
import random
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

import msgspec

from benchmarks.latencies import Latencies

PR_SET_TIMERSLACK = 29
LAST_ANSWERS_SECONDS = 10.0
SAMPLE_EVERY, SAMPLES = 499, 200
ID, ID_LENGTH = b'"prediction_id":"', 36


class LoadWindow(msgspec.Struct, kw_only=True):
    """The counts and latencies of one window of time.

    `late_ms` (p99) is the client's own delay: the time from due to sent while a connection was
    free. `unsent` requests were due at the end of the run. `samples` are indices of bodies with
    their answers.
    """

    seconds: float
    answered: int
    refused: int
    broken: int
    p50_ms: float
    p99_ms: float
    late_ms: float
    unsent: int = 0
    samples: list[tuple[int, str]] = []


class Tally:
    """Counters of the requests of one window."""

    def __init__(self) -> None:
        self.latencies, self.lateness = Latencies(), Latencies()
        self.refused = self.broken = 0

    def include(self, other: "Tally") -> None:
        self.latencies.include(other.latencies)
        self.lateness.include(other.lateness)
        self.refused += other.refused
        self.broken += other.broken

    def shown(self, seconds: float) -> LoadWindow:
        return LoadWindow(
            seconds=seconds,
            answered=self.latencies.count,
            refused=self.refused,
            broken=self.broken,
            p50_ms=self.latencies.percentile_ms(0.5),
            p99_ms=self.latencies.percentile_ms(0.99),
            late_ms=self.lateness.percentile_ms(0.99),
        )


class Connection:
    """A kept-alive connection with at most one request in flight, due at `due`."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.due, self.body = 0.0, 0
        self.open()

    def open(self) -> None:
        self.socket = socket.create_connection(self._address, timeout=LAST_ANSWERS_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def answer(self) -> tuple[int, bytes] | None:
        """Return status and body, or None while they are incomplete.

        Raises OSError if the service hung up, ValueError for an answer without a Content-Length.
        """
        part = self.socket.recv(1 << 18)
        if not part:
            raise ConnectionResetError("the service closed the connection")
        self._received += part
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < content_length(head):
            return None
        self._received = b""
        return int(head[9:12]), body


def content_length(head: bytes) -> int:
    start = head.lower().index(b"content-length:") + 15
    return int(head[start : start + 12].partition(b"\r")[0])


class Arrivals:
    """The moments, in seconds, at which requests are due.

    With a rate they follow a Poisson process of `rate` per second. Without one, as many are due as
    there are free connections.
    """

    def __init__(self, rate: float | None, seed: int, start: float) -> None:
        self._rate, self._draw = rate, random.Random(seed).expovariate
        self.waiting: deque[float] = deque()
        self.next = start

    def until(self, now: float, free: int) -> deque[float]:
        """Return all moments that are due and not yet sent, the earliest first."""
        if self._rate is None:
            self.waiting.extend([now] * (free - len(self.waiting)))
        while self._rate is not None and self.next <= now:
            self.waiting.append(self.next)
            self.next += self._draw(self._rate)
        return self.waiting

    def pause(self, now: float) -> float:
        """Return the seconds until the next request is due.

        In a closed loop only answers make a request due, so any time will do.
        """
        return 1.0 if self._rate is None else max(0.0, self.next - now)


class LoadRun:
    """A run that sends the requests in turn, then waits for the last answers."""

    def __init__(
        self,
        address: tuple[str, int],
        requests: list[bytes],
        connections: int,
        ids: TextIO | None = None,
    ) -> None:
        self._requests, self._ids = requests, ids
        # Used in turn: a server closes a connection that is idle for long.
        self._free = deque(Connection(address) for _ in range(connections))
        self._busy: dict[socket.socket, Connection] = {}
        self._sent, self._looked = 0, 0.0
        self._samples: list[tuple[int, str]] = []
        self._tally = Tally()

    def close(self) -> None:
        for connection in (*self._free, *self._busy.values()):
            connection.socket.close()

    def windows(
        self, seconds: float, window: float, rate: float | None, seed: int = 7
    ) -> Iterator[LoadWindow]:
        """Yield the result of each window, and last the result of the whole run."""
        started = opened = now = time.perf_counter()
        arrivals, total, end = Arrivals(rate, seed, started), Tally(), started + seconds
        while now < end or (self._busy and now < end + LAST_ANSWERS_SECONDS):
            if now < end:
                self._send(arrivals.until(now, len(self._free)), now)
            self._receive(
                min(arrivals.pause(time.perf_counter()), 0.05 if now >= end else end - now)
            )
            now = time.perf_counter()
            if now - opened >= window:
                yield self._tally.shown(now - opened)
                total.include(self._tally)
                self._tally, opened = Tally(), now
        self._tally.broken += len(self._busy)
        total.include(self._tally)
        yield msgspec.structs.replace(
            total.shown(seconds), unsent=len(arrivals.waiting) if rate else 0, samples=self._samples
        )

    def _send(self, waiting: deque[float], now: float) -> None:
        while waiting and self._free:
            connection = self._free.popleft()
            connection.due, connection.body = waiting.popleft(), self._sent % len(self._requests)
            # Only these could have been sent on time: a connection was free when they became due.
            if connection.due >= self._looked:
                self._tally.lateness.add(now - connection.due)
            self._sent += 1
            self._busy[connection.socket] = connection
            try:
                connection.socket.sendall(self._requests[connection.body])
            except OSError:
                self._reconnect(connection)
        self._looked = now

    def _receive(self, seconds: float) -> None:
        for ready in select.select(list(self._busy), (), (), seconds)[0]:
            connection = self._busy[ready]
            try:
                answer = connection.answer()
            except (OSError, ValueError):
                self._reconnect(connection)
                continue
            if answer:
                self._count(connection, *answer)
                del self._busy[ready]
                self._free.append(connection)

    def _count(self, connection: Connection, status: int, body: bytes) -> None:
        if status != 200:
            self._tally.refused += 1
            return
        self._tally.latencies.add(time.perf_counter() - connection.due)
        if self._sent % SAMPLE_EVERY == 0 and len(self._samples) < SAMPLES:
            self._samples.append((connection.body, body.decode()))
        if self._ids and (start := body.find(ID)) >= 0:
            self._ids.write(body[start + len(ID) : start + len(ID) + ID_LENGTH].decode() + "\n")

    def _reconnect(self, connection: Connection) -> None:
        self._tally.broken += 1
        del self._busy[connection.socket]
        connection.socket.close()
        connection.open()
        self._free.append(connection)


def read_requests(
    url: str, bodies: Path, headers: Sequence[str] = ()
) -> tuple[tuple[str, int], list[bytes]]:
    """Return the address, and a complete HTTP request for each body of the file.

    Each of `headers` is a line of the form `name: value`.
    """
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        "Content-Type: application/json\r\nContent-Length: %d\r\n"
        + "".join(f"{line.replace('%', '%%')}\r\n" for line in headers)
        + "\r\n"
    ).encode()
    return (parts.hostname or "", parts.port or 80), [
        head % len(body) + body for body in bodies.read_bytes().splitlines()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rate", type=float, help="requests per second; without it, a closed loop")
    parser.add_argument("--window", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--ids", type=Path, help="a file for the prediction ids of all answers, one per line"
    )
    parser.add_argument("-H", dest="headers", action="append", default=[], metavar="NAME: VALUE")
    options = parser.parse_args()
    # By default timers may be 50 microseconds late, which is half of a measured latency.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1000)
    # A collection would pause the client and look like a slow answer.
    gc.disable()
    address, requests = read_requests(options.url, options.bodies, options.headers)
    with ExitStack() as stack:
        ids = stack.enter_context(options.ids.open("w")) if options.ids else None
        run = stack.enter_context(closing(LoadRun(address, requests, options.connections, ids)))
        for window in run.windows(options.seconds, options.window, options.rate, options.seed):
            print(msgspec.json.encode(window).decode(), flush=True)


if __name__ == "__main__":
    main()
