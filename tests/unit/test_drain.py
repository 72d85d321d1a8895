import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from services.inference.drain import begin, main
from tests.support.processes import free_port

TOKEN = "correct-horse"


class DrainedPod(BaseHTTPRequestHandler):
    """An admin port that drains for any caller with the token."""

    calls: list[tuple[str, str | None]] = []

    def do_POST(self) -> None:
        self.calls.append((self.path, self.headers["Authorization"]))
        self.send_response(200 if self.headers["Authorization"] == f"Bearer {TOKEN}" else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    DrainedPod.calls.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), DrainedPod) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_pod_is_asked_to_drain_with_the_token(port: int) -> None:
    assert begin(port, TOKEN) is None
    assert DrainedPod.calls == [("/drain", f"Bearer {TOKEN}")]


def test_a_refusal_and_a_missing_answer_are_reported_differently(port: int) -> None:
    assert begin(port, "wrong") == "status 401"
    assert begin(free_port(), TOKEN) == "ConnectionRefusedError"


def test_the_pod_leaves_late_even_when_it_does_not_drain(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["drain", "0.3"])
    monkeypatch.setenv("FRAUDOPS_ADMIN_PORT", str(free_port()))
    started = time.monotonic()
    main()
    assert time.monotonic() - started >= 0.3
    assert "does not drain (ConnectionRefusedError)" in capsys.readouterr().err
