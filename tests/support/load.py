"""Clients that post to /predict without a pause and never repeat a request.

Run `python -m tests.support.load URL CLIENTS`. The clients stop when standard input closes.
The program then prints one JSON object: `answers` as [moment sent, version], and `failures`.
Moments are from the machine's monotonic clock, so another process can compare them.
"""

import http.client
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.support.known_transaction import TRANSACTION

NO_ANSWER = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class PredictAnswer:
    status: int
    body: bytes
    retry_after: str | None


class PredictConnection:
    """A kept-alive connection that posts to /predict and connects again after a failure."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)

    def post(self, body: str | bytes) -> PredictAnswer:
        """Raises one of NO_ANSWER if the connection breaks."""
        try:
            self._connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = self._connection.getresponse()
            return PredictAnswer(answer.status, answer.read(), answer.headers.get("Retry-After"))
        except NO_ANSWER:
            # The next request then opens a new connection.
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()


def run_until_stdin_closes(clients: Sequence[threading.Thread], stopped: threading.Event) -> None:
    for client in clients:
        client.start()
    sys.stdin.read()
    stopped.set()
    for client in clients:
        client.join(30)


class LoadClient(threading.Thread):
    def __init__(self, url: str, stopped: threading.Event) -> None:
        super().__init__()
        self.connection, self.stopped = PredictConnection(url), stopped
        self.answers: list[tuple[float, str]] = []
        self.failures: list[str] = []

    def run(self) -> None:
        while not self.stopped.is_set():
            sent = time.monotonic()
            try:
                answer = self.connection.post(TRANSACTION)
            except NO_ANSWER as error:
                self.failures.append(repr(error))
                continue
            if answer.status == 200:
                self.answers.append((sent, json.loads(answer.body)["model_version"]))
            else:
                self.failures.append(f"{answer.status} {answer.body[:200]!r}")
        self.connection.close()


def main() -> None:
    stopped = threading.Event()
    clients = [LoadClient(sys.argv[1], stopped) for _ in range(int(sys.argv[2]))]
    run_until_stdin_closes(clients, stopped)
    answers = sorted(answer for client in clients for answer in client.answers)
    failures = [failure for client in clients for failure in client.failures]
    print(json.dumps({"answers": answers, "failures": failures}))


if __name__ == "__main__":
    main()
