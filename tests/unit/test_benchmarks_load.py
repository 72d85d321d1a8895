"""The output of load generators, the times at which requests are due, and the turns.

The client runs against small servers of the tests.
"""

import contextlib
import json
import math
import socket
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.client import Arrivals, LoadRun, LoadWindow, content_length, read_requests
from benchmarks.generators import (
    GENERATORS,
    GeneratorError,
    choose,
    read_bundled,
    read_oha,
    read_wrk,
)
from benchmarks.processes import SubjectError
from benchmarks.protocols import (
    FRAME,
    INFERENCE,
    INSTANCES,
    TENSOR,
    TRANSACTION,
    TRANSACTIONS,
    Protocol,
    WrongAnswerError,
    write_bodies,
)
from benchmarks.turns import order

ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 55\r\n\r\n"
    + b'{"prediction_id":"019ab2e2-7b3e-7cc0-8a55-5ff8bb0f1c7b"}'[:55]
)
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 2\r\n\r\n{}"
Respond = Callable[[socket.socket, bytes], None]


@contextlib.contextmanager
def serving(respond: Respond) -> Iterator[tuple[str, int]]:
    """A server that passes each request of each connection to `respond`."""

    def converse(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while request := connection.recv(1 << 16):
                respond(connection, request)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=converse, args=(listener.accept()[0],), daemon=True).start()

    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def run_window(
    address: tuple[str, int], rate: float | None, requests: int = 3, seconds: float = 0.3
) -> LoadWindow:
    with contextlib.closing(
        LoadRun(address, [b"POST %d" % number for number in range(requests)], 2)
    ) as run:
        *_, last = run.windows(seconds, math.inf, rate)
    return last


def test_wrk_counts_refused_requests_among_its_requests() -> None:
    load = read_wrk(
        "Running 1s test\n\n"
        '{"requests":100,"seconds":2.0,"refused":10,"broken":3,"p50_ms":0.5,"p99_ms":1.5}\n'
    )
    assert (load.answered, load.refused, load.broken) == (90, 10, 3)
    assert load.rate == 45.0


def test_the_requests_that_the_deadline_of_oha_cut_off_are_no_errors() -> None:
    output = {
        "summary": {"total": 2.0, "successRate": 1.0},
        "latencyPercentiles": {"p50": 0.0005, "p99": 0.002, "p99.99": None},
        "statusCodeDistribution": {"200": 90, "503": 10},
        "errorDistribution": {"aborted due to deadline": 16, "connection closed": 2},
    }
    load = read_oha(json.dumps(output))
    assert (load.answered, load.refused, load.broken, load.rate) == (90, 10, 2, 45.0)
    assert (load.p50_ms, load.p99_ms) == (0.5, 2.0)


@pytest.mark.parametrize("read", [read_wrk, read_oha, read_bundled])
def test_unreadable_output_is_an_error_that_quotes_it(read: Callable[[str], object]) -> None:
    with pytest.raises(GeneratorError, match="unable to connect"):
        read("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_the_bundled_client_is_always_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert choose() is GENERATORS["bundled"]
    with pytest.raises(GeneratorError, match="wrk is not installed"):
        choose("wrk")


def test_arrivals_do_not_wait_for_answers() -> None:
    arrivals = Arrivals(100.0, seed=7, start=0.0)
    due = list(arrivals.until(50.0, free=0))
    assert len(due) == pytest.approx(5000, rel=0.1)
    assert due == sorted(due)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    # The standard deviation of an exponential distribution is its mean.
    assert np.std(gaps) == pytest.approx(0.01, rel=0.1)
    assert arrivals.pause(50.0) > 0


def test_without_a_rate_as_many_are_due_as_connections_are_free() -> None:
    arrivals = Arrivals(None, seed=7, start=0.0)
    assert len(arrivals.until(1.0, free=3)) == 3
    assert len(arrivals.until(2.0, free=3)) == 3


def test_the_client_counts_answers_and_refusals() -> None:
    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(REFUSAL if request == b"POST 2" else ANSWER)

    with serving(respond) as address:
        window = run_window(address, rate=200.0)
    assert window.answered > 10
    assert window.refused == pytest.approx(window.answered / 2, abs=2)
    assert window.broken == 0


def test_an_answer_may_come_in_pieces() -> None:
    def respond(connection: socket.socket, request: bytes) -> None:
        for part in (ANSWER[:20], ANSWER[20:45], ANSWER[45:]):
            connection.sendall(part)
            threading.Event().wait(0.002)

    with serving(respond) as address:
        window = run_window(address, rate=None)
    assert window.answered > 2
    assert window.broken == 0


def test_a_connection_that_ends_is_counted_and_opened_again() -> None:
    def respond(connection: socket.socket, request: bytes) -> None:
        connection.sendall(ANSWER[:30])
        connection.shutdown(socket.SHUT_RDWR)

    with serving(respond) as address:
        window = run_window(address, rate=100.0)
    assert window.answered == 0
    assert window.broken > 2


def test_a_latency_counts_from_when_the_request_was_due() -> None:
    """With two connections and answers after 50 ms, 200 requests per second must mostly queue."""

    def respond(connection: socket.socket, request: bytes) -> None:
        threading.Event().wait(0.05)
        connection.sendall(ANSWER)

    with serving(respond) as address:
        open_loop, closed_loop = run_window(address, rate=200.0), run_window(address, rate=None)
    assert open_loop.unsent > 0
    assert open_loop.p50_ms > closed_loop.p50_ms


def test_a_request_has_a_head_and_its_complete_body(tmp_path: Path) -> None:
    bodies = tmp_path / "bodies"
    bodies.write_bytes(b'{"a":1}\n{"a":22}\n')
    address, requests = read_requests("http://127.0.0.1:8000/predict", bodies)
    assert address == ("127.0.0.1", 8000)
    assert [content_length(request.partition(b"\r\n\r\n")[0]) for request in requests] == [7, 8]
    assert requests[1].startswith(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n")
    assert requests[1].endswith(b'{"a":22}')


@pytest.mark.parametrize(
    ("protocol", "answer"),
    [
        (TRANSACTION, {"fraud_probability": 0.25}),
        (TRANSACTIONS, {"predictions": [{"fraud_probability": 0.25}]}),
        (INSTANCES, {"predictions": [0.25]}),
        (TENSOR, {"outputs": [{"data": [0.75, 0.25]}]}),
        (INFERENCE, {"outputs": [{"data": [0.25]}]}),
        (FRAME, {"predictions": [[0.75, 0.25]]}),
    ],
)
def test_the_probability_is_found_in_every_kind_of_answer(
    protocol: Protocol, answer: object
) -> None:
    assert protocol.difference(json.dumps(answer).encode(), np.array([0.2])) == pytest.approx(0.05)


@pytest.mark.parametrize("answer", [b"{}", b"nonsense", b'{"fraud_probability":null}'])
def test_a_body_that_is_not_an_answer_is_wrong(answer: bytes) -> None:
    with pytest.raises(WrongAnswerError):
        TRANSACTION.difference(answer, np.array([0.2]))


def test_every_row_is_sent_in_bodies_of_the_size(tmp_path: Path) -> None:
    path = write_bodies(
        tmp_path / "bodies", TRANSACTIONS, ("a", "b"), np.arange(10.0).reshape(5, 2), rows=2
    )
    bodies = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert bodies == [
        {"transactions": [{"a": 0.0, "b": 1.0}, {"a": 2.0, "b": 3.0}]},
        {"transactions": [{"a": 4.0, "b": 5.0}, {"a": 6.0, "b": 7.0}]},
    ]


def test_every_round_begins_with_another_subject() -> None:
    assert [order("abc", number) for number in range(4)] == [
        ["a", "b", "c"],
        ["b", "c", "a"],
        ["c", "a", "b"],
        ["a", "b", "c"],
    ]


def test_a_wrong_probability_ends_the_run() -> None:
    from benchmarks.open_loop import check

    window = LoadWindow(
        seconds=1.0,
        answered=1,
        refused=0,
        broken=0,
        p50_ms=1.0,
        p99_ms=1.0,
        late_ms=0.0,
        samples=[(1, '{"fraud_probability":0.5}')],
    )
    assert check(window, TRANSACTION, np.array([0.1, 0.5])) == 1
    with pytest.raises(SubjectError, match=r"the answer for row 1 differs by 0\.4"):
        check(window, TRANSACTION, np.array([0.5, 0.1]))
