"""Heads, bodies and connections of clients that are slow, broken or unusual."""

import contextlib
import http.client
import json
import socket

import pytest

from tests.support.http_client import HTTP
from tests.support.serving import ULB_ROW, Service, problem

HEAD = "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
H2C = (
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
)
LABEL = {"transaction_id": "t-1", "label": 1, "labelled_at": "2026-01-01T00:00:00Z", "source": "s"}


def read_all(connection: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    received = b""
    while part := connection.recv(65_536):
        received += part
    return received


def test_a_body_above_its_limit_is_413_whether_or_not_its_length_is_announced(
    service: Service,
) -> None:
    padded = json.dumps(ULB_ROW).encode().ljust(64 << 10)
    assert service.post("/predict", padded).status_code == 200
    for path, body in (
        ("/predict", padded + b" "),
        ("/predict/batch", b" " * ((16 << 20) + 1)),
        ("/feedback", b" " * ((16 << 20) + 1)),
    ):
        announced = service.post(path, body)
        assert (announced.status_code, problem(announced)["status"]) == (413, 413)
        chunked = HTTP.post(
            service.url + path,
            content=iter([body[:50_000], body[50_000:]]),
            headers={"content-type": "application/json"},
        )
        assert (chunked.status_code, problem(chunked)["status"]) == (413, 413)


def test_a_connection_survives_a_refused_body_and_closes_after_one_that_is_too_large(
    service: Service,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    answers = []
    for body in (b"{", json.dumps(ULB_ROW).encode(), b" " * 70_000):
        connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        answers.append((answer.status, connection.sock is not None))
    connection.close()
    # http.client drops its socket when the answer has `Connection: close`.
    assert answers == [(422, True), (200, True), (413, False)]


def test_a_client_that_expects_100_continue_is_refused_before_it_sends(
    service: Service,
) -> None:
    head = (
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Expect: 100-continue\r\nContent-Length: 70000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head)
        received = b""
        while part := connection.recv(65_536):
            received += part
    assert received.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in received


@pytest.mark.parametrize("body_later", [False, True], ids=["curl", "jdk"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_curl_and_a_jdk_request_with_upgrade_are_answered(
    service: Service, path: str, body_later: bool
) -> None:
    """curl sends head and body together, the JDK's client in two segments and in chunks."""
    content = ULB_ROW if path == "/predict" else {"transactions": [ULB_ROW]}
    body, head = json.dumps(content).encode(), HEAD.format(path=path) + H2C
    if body_later:
        head += "Transfer-Encoding: chunked\r\n\r\n"
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    else:
        head += f"Content-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(2):
            connection.sendall(head.encode() if body_later else head.encode() + body)
            if body_later:
                # The answer on another connection takes longer than the first segment.
                assert service.predict().status_code == 200
                connection.sendall(body)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (number, answer.status) == (number, 200)
            assert b"fraud_probability" in answer.read()


def test_twelve_held_connections_stop_neither_labels_nor_batches(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Clients whose hosts died after their headers, or in the middle of a body."""
    service = Service(
        tmp_path_factory.mktemp("held"),
        workers=1,
        environment={"FRAUDOPS_HTTP__BODY_SECONDS": "3"},
    ).promoted(1)
    held = []
    try:
        for number in range(12):
            path = ("/predict/batch", "/feedback")[number % 2]
            connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
            head = HEAD.format(path=path) + "Content-Length: 1000000\r\n\r\n"
            connection.sendall(head.encode() + b"{" * (number % 3))
            held.append(connection)
        for path, content, status in (
            ("/feedback", {"labels": [LABEL]}, 202),
            ("/predict/batch", {"transactions": [ULB_ROW]}, 200),
            ("/predict", ULB_ROW, 200),
        ):
            assert service.post(path, json.dumps(content)).status_code == status
        for connection in held:
            received = read_all(connection)
            assert received.startswith(b"HTTP/1.1 408")
            assert b"connection: close" in received
        assert service.post("/predict/batch", json.dumps({"transactions": [ULB_ROW]})).is_success
        metrics = service.metrics()
        refused = 'http_requests_total{endpoint="/feedback",method="POST",status="408"}'
        assert metrics[refused] == 6
        assert metrics['fraudops_permit_wait_seconds_count{kind="labels"}'] == 1
    finally:
        for connection in held:
            connection.close()
        service.stop()


def test_slow_and_silent_connections_are_closed(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    service = Service(
        tmp_path_factory.mktemp("slow"),
        workers=1,
        environment={"FRAUDOPS_HTTP__HEAD_SECONDS": "1", "FRAUDOPS_HTTP__IDLE_SECONDS": "1"},
    ).promoted(1)
    address = ("127.0.0.1", service.port)
    try:
        with (
            socket.create_connection(address, timeout=20) as silent,
            socket.create_connection(address, timeout=20) as half,
            socket.create_connection(address, timeout=20) as kept,
        ):
            half.sendall(b"POST /predict HTTP/1.1\r\nHost: x")
            kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_all(half).startswith(b"HTTP/1.1 408")
            assert read_all(silent) == b""
            assert read_all(kept).startswith(b"HTTP/1.1 200")
        metrics = service.metrics()
        assert metrics['fraudops_connections_refused_total{reason="slow_head"}'] == 1
    finally:
        service.stop()


def test_head_options_and_a_trailing_slash_are_answered(service: Service) -> None:
    for path in ("/health", "/health/", "/ready", "/model_info", "/metrics", "/docs"):
        full, head = HTTP.get(service.url + path), HTTP.head(service.url + path)
        assert (full.status_code, head.status_code, head.content) == (200, 200, b"")
        assert head.headers["content-type"] == full.headers["content-type"]
        assert "content-length" in head.headers
    assert problem(HTTP.post(f"{service.url}/predict/", json={}))["status"] == 422
    for path, allowed in (("/health", "GET, HEAD, OPTIONS"), ("/predict/", "POST, OPTIONS")):
        answer = HTTP.request("OPTIONS", service.url + path)
        assert (answer.status_code, answer.content, answer.headers["allow"]) == (204, b"", allowed)
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"allow: GET, HEAD, OPTIONS, POST, PUT\r\n" in read_all(connection)
    for path in ("/", "//", "/health//", "/%2e%2e/health", "/health%00", "/h%C3%A9"):
        assert HTTP.get(service.url + path).status_code == 404


@pytest.mark.parametrize("encoding", ["gzip", "br", "x-unknown"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/feedback"])
def test_a_compressed_body_is_415(service: Service, path: str, encoding: str) -> None:
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    answer = HTTP.post(service.url + path, content=b"{}", headers=headers)
    assert problem(answer)["status"] == 415
    assert answer.headers["accept-encoding"] == "identity"


def test_json_of_another_kind_and_an_identity_encoding_are_accepted(service: Service) -> None:
    body = json.dumps(ULB_ROW)
    for kind in ("application/json", "application/vnd.bank+json", "Application/JSON;charset=utf-8"):
        headers = {"Content-Type": kind, "Content-Encoding": "identity"}
        assert HTTP.post(f"{service.url}/predict", content=body, headers=headers).is_success


def test_a_prefix_that_a_proxy_strips_is_in_the_documentation(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    service = Service(
        tmp_path_factory.mktemp("prefix"),
        workers=1,
        environment={"FRAUDOPS_HTTP__ROOT_PATH": "/fraud"},
    ).start()
    try:
        document = HTTP.get(f"{service.url}/openapi.json").json()
        assert document["servers"] == [{"url": "/fraud"}]
        for page in ("/docs", "/redoc"):
            assert '"/fraud/openapi.json"' in HTTP.get(service.url + page).text
    finally:
        service.stop()


def test_a_client_that_sends_nothing_more_still_gets_its_answer(service: Service) -> None:
    body = json.dumps({"transactions": [ULB_ROW] * 300}).encode()
    head = HEAD.format(path="/predict/batch") + f"Content-Length: {len(body)}\r\n\r\n"
    for sent, status in ((body, b"200"), (body[:-1], b"400")):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            connection.sendall(head.encode() + sent)
            connection.shutdown(socket.SHUT_WR)
            assert read_all(connection).startswith(b"HTTP/1.1 " + status)
    fast = json.dumps(ULB_ROW).encode()
    head = HEAD.format(path="/predict") + f"Content-Length: {len(fast)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head.encode() + fast)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).startswith(b"HTTP/1.1 200")


def test_a_refusal_is_read_although_the_client_still_sends(service: Service) -> None:
    head = HEAD.format(path="/predict") + "Content-Length: 100000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head.encode())
        with contextlib.suppress(ConnectionError):
            send_megabytes(connection, 6)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
        with pytest.raises(ConnectionError):
            send_megabytes(connection, 500)


def send_megabytes(connection: socket.socket, number: int) -> None:
    for _ in range(number):
        connection.sendall(b"x" * (1 << 20))
