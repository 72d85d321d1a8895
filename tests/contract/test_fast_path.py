"""The fast path of /predict, and the application for all other requests.

A client must not be able to tell which of them answered.
"""

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from fraudops.audit.records import Prediction
from tests.support.serving import Service
from tests.support.two_paths import BAD, BODY, TRACE, Wire, ask, chunked, with_length
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    started = Service(tmp_path_factory.mktemp("fast-path"), workers=1).promoted(1)
    yield started
    started.stop()


BOM = b"\xef\xbb\xbf" + BODY
TWICE = BODY.replace(b"{", b'{"V1": 0.5, ', 1)


@pytest.mark.parametrize("body", [BODY, BAD, BOM, TWICE, b"", b"{", b"\xff"])
@pytest.mark.parametrize(
    "more",
    [
        "",
        "X-Request-Id: r-1\r\n",
        "Connection: Keep-Alive\r\n",
        f"traceparent: {TRACE}\r\n",
        "traceparent: 00-1\r\n",
        "X-Request-Timeout-Ms: 60000\r\n",
        "X-Request-Timeout-Ms: soon\r\n",
        "Origin: https://desk.example\r\n",
        "Authorization: Bearer unused\r\n",
    ],
)
def test_both_paths_answer_alike(service: Service, body: bytes, more: str) -> None:
    (status, headers, content), (other_status, other_headers, other_content) = (
        ask(service, encoding(body, more)) for encoding in (with_length, chunked)
    )
    assert status == other_status
    if body != BOM and body != TWICE:
        assert status == (200 if body == BODY else 422)
    assert headers.keys() == other_headers.keys()
    assert headers.get("traceparent") == (TRACE if TRACE in more else None)
    assert headers["content-type"] == other_headers["content-type"]
    for answered, shown in ((content, headers), (other_content, other_headers)):
        identifier = answered.pop("prediction_id", None)
        assert shown["x-request-id"] == (
            "r-1" if more.startswith("X-Request-Id") else identifier or shown["x-request-id"]
        )
    assert content == other_content


def test_both_paths_audit_and_count_alike(service: Service) -> None:
    before, known = service.metrics(), {record.id for record in service.audited()}
    for encoding in (with_length, chunked):
        ask(service, encoding(BODY, "X-Request-Id: twin\r\n"))
    one, other = (record for record in service.audited() if record.id not in known)
    assert isinstance(one, Prediction)
    assert isinstance(other, Prediction)
    assert {
        name for name in one.__struct_fields__ if getattr(one, name) != getattr(other, name)
    } == {"id", "latency_ms"}
    assert one.request_id == "twin"

    def counted() -> None:
        after = service.metrics()
        for name in (
            'http_requests_total{endpoint="/predict",method="POST",status="200"}',
            'http_request_duration_seconds_count{endpoint="/predict"}',
        ):
            assert after[name] - before.get(name, 0) == 2
        name = 'http_request_duration_seconds_sum{endpoint="/predict"}'
        assert 0 < after[name] - before.get(name, 0) < 10
        buckets = [
            after[name] - before.get(name, 0)
            for name in after
            if name.startswith('http_request_duration_seconds_bucket{endpoint="/predict"')
        ]
        assert max(buckets) == 2

    eventually(counted)


def test_pipelined_requests_are_answered_in_order_on_both_paths(
    service: Service,
) -> None:
    requests = [
        way(body, f"X-Request-Id: p-{number}\r\n")
        for number, (way, body) in enumerate(
            ((with_length, BODY), (chunked, BODY), (with_length, BAD), (with_length, BODY)) * 5
        )
    ]
    with Wire(service) as wire:
        wire.socket.sendall(b"".join(requests))
        answers = [wire.answer() for _ in requests]
    assert [headers["x-request-id"] for _, headers, _ in answers] == [
        f"p-{number}" for number in range(len(requests))
    ]
    assert [status for status, _, _ in answers] == [200, 200, 422, 200] * 5


def test_requests_that_arrive_together_are_each_answered_audited_and_counted(
    service: Service,
) -> None:
    """The worker is stopped while they arrive, so that it reads them all together."""
    before, known = service.metrics(), {record.id for record in service.audited()}
    (pid,) = service.worker_pids()
    wires = [Wire(service) for _ in range(20)]
    for wire in wires:
        # The answer shows that the event loop knows the connection: it accepts one per turn.
        wire.socket.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert wire.answer()[0] == 200
    os.kill(pid, signal.SIGSTOP)
    try:
        for number, wire in enumerate(wires):
            wire.socket.sendall(
                with_length(BAD if number % 5 == 4 else BODY, f"X-Request-Id: t-{number}\r\n")
            )
    finally:
        os.kill(pid, signal.SIGCONT)
    answers = [wire.answer() for wire in wires]
    for wire in wires:
        wire.__exit__()
    assert [(status, headers["x-request-id"]) for status, headers, _ in answers] == [
        (422 if n % 5 == 4 else 200, f"t-{n}") for n in range(20)
    ]
    audited = [record for record in service.audited() if record.id not in known]
    assert sorted(record.id for record in audited) == sorted(
        content["prediction_id"] for status, _, content in answers if status == 200
    )

    def counted() -> None:
        after = service.metrics()
        grown = {name: after[name] - before.get(name, 0) for name in after}
        assert grown['http_requests_total{endpoint="/predict",method="POST",status="200"}'] == 16
        assert grown['http_request_duration_seconds_count{endpoint="/predict"}'] == 20
        assert (
            grown['fraudops_predictions_total{decision="genuine"}']
            + grown.get('fraudops_predictions_total{decision="fraud"}', 0)
            == 16
        )

    eventually(counted)


def test_a_request_in_pieces_is_one_request_wherever_it_is_cut(service: Service) -> None:
    request = with_length(BODY)
    with Wire(service) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for cut in (1, 20, request.index(b"\r\n\r\n") + 4, len(request) - 10):
            wire.socket.sendall(request[:cut])
            # The answer on another connection shows that the worker has read the first piece.
            assert ask(service, with_length(BODY))[0] == 200
            wire.socket.sendall(request[cut:])
            assert wire.answer()[0] == 200


def test_a_body_above_the_limit_is_refused_though_it_comes_in_one_piece(service: Service) -> None:
    """The worker is stopped while the body arrives, so that it reads everything in one piece."""
    (pid,) = service.worker_pids()
    for size, expected in (((64 << 10) + 1, 413), (64 << 10, 200)):
        with Wire(service) as wire:
            os.kill(pid, signal.SIGSTOP)
            try:
                wire.socket.sendall(with_length(BODY.ljust(size)))
            finally:
                os.kill(pid, signal.SIGCONT)
            assert wire.answer()[0] == expected


def test_the_connection_closes_for_http_1_0_or_connection_close(
    service: Service,
) -> None:
    for request in (
        with_length(BODY, "Connection: close\r\n"),
        with_length(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    ):
        with Wire(service) as wire:
            wire.socket.sendall(request)
            assert wire.answer()[0] == 200
            assert wire.file.read() == b""


def test_a_full_spool_refuses_on_both_paths_and_the_connection_stays(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    service = Service(
        tmp_path_factory.mktemp("full"),
        workers=1,
        environment={"FRAUDOPS_AUDIT__SPOOL_MAX_BYTES": str(1 << 20)},
    ).promoted(1)
    try:
        with Wire(service) as wire:
            statuses = []
            for _ in range(5000):
                wire.socket.sendall(with_length(BODY))
                status, headers, content = wire.answer()
                statuses.append(status)
                if status != 200:
                    break
            assert statuses[-1] == 503
            assert (headers["retry-after"], content["title"]) == ("1", "The audit spool is full")
            wire.socket.sendall(chunked(BODY))
            assert wire.answer()[0] == 503
        assert len(service.audited()) == len(statuses) - 1
        eventually(lambda: _refusals(service, 2))
    finally:
        service.stop()


def _refusals(service: Service, expected: int) -> None:
    metrics = service.metrics()
    assert (
        metrics['http_requests_total{endpoint="/predict",method="POST",status="503"}'] == expected
    )
    assert metrics["fraudops_spool_refused_total"] == expected


def test_a_request_whose_deadline_has_passed_is_shed_and_leaves_no_record(
    service: Service,
) -> None:
    """The body comes after the deadline. tests/unit has the same on the fast path."""
    before, known = service.metrics(), len(service.audited())
    whole = with_length(BODY, "X-Request-Timeout-Ms: 1\r\n")
    head = whole.index(b"\r\n\r\n") + 4
    with Wire(service) as wire:
        wire.socket.sendall(whole[:head])
        # Answers on other connections take longer than the deadline.
        for _ in range(5):
            assert ask(service, with_length(BODY))[0] == 200
        wire.socket.sendall(whole[head:])
        status, _, content = wire.answer()
    assert (status, content["title"]) == (503, "The client's deadline has passed")
    assert len(service.audited()) == known + 5
    name = 'fraudops_requests_shed_total{endpoint="/predict"}'
    eventually(lambda: _grown(service, name, before, 1))


def _grown(service: Service, name: str, before: dict[str, float], by: float) -> None:
    assert service.metrics()[name] - before.get(name, 0) == by
