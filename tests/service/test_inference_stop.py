"""A worker that stops: what its clients see."""

import contextlib
import http.client
import json
import signal
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.http_client import HTTP
from tests.support.serving import TOKEN, ULB_ROW, Service
from tests.support.waiting import eventually

BODY = json.dumps(ULB_ROW).encode()
HEADERS = {"Content-Type": "application/json"}


@dataclass
class PersistentClients:
    """Clients that send without pause until a new connection is refused.

    `ids` holds the predictions that they received. `failures` holds the errors on a kept-alive
    connection. `released` is set by the first answer that closes its connection.
    """

    port: int
    ids: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while True:
            fresh = connection.sock is None
            try:
                connection.request("POST", "/predict", BODY, HEADERS)
                answer = connection.getresponse()
                self.ids.append(json.loads(answer.read())["prediction_id"])
            except (OSError, http.client.HTTPException) as error:
                if not fresh:
                    self.failures.append(repr(error))
                connection.close()
                return
            if answer.headers.get("connection") == "close":
                self.released.set()


def test_a_stop_releases_clients_answers_begun_requests_and_closes_the_spool(
    tmp_path: Path,
) -> None:
    service = Service(tmp_path, environment={"FRAUDOPS_DRAIN_SECONDS": "2"}).promoted(1)
    clients = PersistentClients(service.port)
    threads = [threading.Thread(target=clients.run) for _ in range(4)]
    for thread in threads:
        thread.start()
    eventually(lambda: _more_than(clients.ids, 50))
    assert not clients.released.is_set()
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as begun:
        begun.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY)
        )
        assert begun.recv(100).startswith(b"HTTP/1.1 100")
        assert service.process
        service.process.send_signal(signal.SIGTERM)
        assert clients.released.wait(10)
        assert "drain" in service.not_ready()
        for thread in threads:
            thread.join(20)
        begun.sendall(BODY)
        received = b""
        while chunk := begun.recv(65_536):
            received += chunk
    assert received.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in received
    assert service.process.wait(30) == 0
    assert clients.failures == []
    audited = [record.id for record in service.audited()]
    assert len(audited) == len(set(audited)) == len(clients.ids) + 1
    assert set(clients.ids) <= set(audited)
    assert list(service.state.run.glob("worker-*.sock")) == []


def _more_than(items: list[str], count: int) -> None:
    assert len(items) > count


def test_an_idle_client_that_the_drain_did_not_reach_is_answered_once_more(
    tmp_path: Path,
) -> None:
    """Its next request may be under way when the worker stops."""
    service = Service(tmp_path, environment={"FRAUDOPS_DRAIN_SECONDS": "0"}).promoted(1)
    with contextlib.ExitStack() as stack:
        stack.callback(service.kill)
        clients = [
            stack.enter_context(
                contextlib.closing(
                    http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
                )
            )
            for _ in range(6)
        ]
        for client in clients:
            client.request("POST", "/predict", BODY, HEADERS)
            assert client.getresponse().read()
        assert service.process
        service.process.send_signal(signal.SIGTERM)
        # Both workers have told their connections to close.
        eventually(lambda: _logged(service, "Shutting down", 2), pause=0.01)
        for client in clients[:-1]:
            client.request("POST", "/predict", BODY, HEADERS)
        for client in clients[:-1]:
            answer = client.getresponse()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            answer.read()
        # The last one sends nothing, and holds the stop only for the grace period.
        assert service.process.wait(20) == 0
    assert len(service.audited()) == 11


def _logged(service: Service, words: str, times: int) -> None:
    assert service.log.count(words) == times


def test_a_drain_reaches_every_worker(tmp_path: Path) -> None:
    service = Service(tmp_path).promoted(1)
    try:
        assert HTTP.post(f"{service.url}/drain").status_code == 401
        assert (
            HTTP.post(
                f"{service.url}/drain", headers={"Authorization": f"Bearer {TOKEN}"}
            ).status_code
            == 200
        )
        assert {service.predict().headers.get("connection") for _ in range(12)} == {"close"}
    finally:
        service.stop()
