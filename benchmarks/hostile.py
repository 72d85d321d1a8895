"""A service under hostile clients: the turns of its event loop, its memory, and held-up calls."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from statistics import median
from urllib.parse import urlsplit

import msgspec

from benchmarks.processes import SubjectError, post
from benchmarks.product import Product
from tests.support.bodies import malformed, malformed_tensors

BODY_BYTES = 16 << 20
BATCH, INFERENCE = "/predict/batch", "/v2/models/credit-fraud/infer"
PROBE_SECONDS, IDLE_SECONDS, MEMORY_SECONDS = 0.002, 1.0, 0.01
HELD, HELD_SECONDS = 12, 3.0
LABEL = {"transaction_id": "t-1", "label": 1, "labelled_at": "2026-01-01T00:00:00Z", "source": "s"}


class MalformedBody(msgspec.Struct, frozen=True):
    """One body: the answer, the longest turn of the loop, and the worker's growth.

    The growth is the highest PSS of the worker minus that before the first body.
    """

    kind: str
    path: str
    status: int
    seconds: float
    longest_ms: float
    growth_mib: float


class HeldCall(msgspec.Struct, frozen=True):
    """The times of calls of one path while other connections send no body."""

    path: str
    seconds: list[float]


class LoopProbe(threading.Thread):
    """Calls /health again and again on one connection, and keeps the seconds of each call."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        parts = urlsplit(url)
        self._connection = socket.create_connection((parts.hostname or "", parts.port or 80), 60)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._over = threading.Event()
        self.seconds: list[float] = []

    def run(self) -> None:
        with self._connection as connection:
            while not self._over.wait(PROBE_SECONDS):
                started = time.perf_counter()
                connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                if not connection.recv(4096):
                    return
                self.seconds.append(time.perf_counter() - started)

    def end(self) -> None:
        """End after the call that runs now."""
        self._over.set()
        self.join()


@contextlib.contextmanager
def probing(url: str) -> Iterator[LoopProbe]:
    probe = LoopProbe(url)
    probe.start()
    try:
        yield probe
    finally:
        probe.end()


def malformed_bodies(service: Product, row: bytes, size: int = BODY_BYTES) -> list[MalformedBody]:
    """Send each kind of malformed body to a service with one worker, and look at that worker.

    `row` is a valid transaction.
    """
    with probing(service.url) as probe:
        time.sleep(IDLE_SECONDS)
    idle = median(probe.seconds)
    (worker,) = service.workers()
    before = worker.memory_full_info().pss
    features = len(json.loads(row))
    bodies = [(BATCH, malformed(row, size)), (INFERENCE, malformed_tensors(features, size))]
    return [
        _send(service, kind, path, make(), idle, before)
        for path, makers in bodies
        for kind, make in makers.items()
    ]


def _send(
    service: Product, kind: str, path: str, body: bytes, idle: float, before: int
) -> MalformedBody:
    (worker,) = service.workers()
    most = before
    answers: list[int] = []
    sender = threading.Thread(
        target=lambda: answers.append(post(service.url + path, body, 120.0)[0])
    )
    started = time.perf_counter()
    with probing(service.url) as probe:
        sender.start()
        while sender.is_alive():
            sender.join(MEMORY_SECONDS)
            most = max(most, worker.memory_full_info().pss)
    seconds = time.perf_counter() - started
    if not answers or not probe.seconds:
        raise SubjectError(f"{kind}: no answer")
    longest = max(probe.seconds) - idle
    return MalformedBody(kind, path, answers[0], seconds, longest * 1000, (most - before) / 2**20)


def held_connections(service: Product, row: bytes) -> list[HeldCall]:
    """Hold connections that have sent their headers only, and time labels and batches."""
    with contextlib.ExitStack() as stack:
        for number in range(HELD):
            stack.enter_context(_held(service.url, (BATCH, "/feedback")[number % 2]))
        return [
            _times(service, BATCH, b'{"transactions":[%b]}' % row, 200),
            _times(service, "/feedback", json.dumps({"labels": [LABEL]}).encode(), 202),
            _times(service, "/predict", row, 200),
        ]


@contextlib.contextmanager
def _held(url: str, path: str) -> Iterator[None]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.putrequest("POST", path)
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    try:
        yield
    finally:
        connection.close()


def _times(service: Product, path: str, body: bytes, expected: int) -> HeldCall:
    """Raises SubjectError for another status than the expected one."""
    seconds: list[float] = []
    while sum(seconds) < HELD_SECONDS:
        started = time.perf_counter()
        status, _ = post(service.url + path, body, 60.0)
        seconds.append(time.perf_counter() - started)
        if status != expected:
            raise SubjectError(f"{path}: {status}")
    return HeldCall(path, seconds)
