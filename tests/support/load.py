"""Clients that post without pause over kept-alive connections and never repeat a request: `python
-m tests.support.load URL CLIENTS` until its standard input closes.

Prints one JSON object: `answers` as [moment sent, version] and `failures`. Moments are of the
machine's monotonic clock, so another process can compare them.
"""

import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit

from tests.support.known_transaction import TRANSACTION


class LoadClient(threading.Thread):
    def __init__(self, url: str, stopped: threading.Event) -> None:
        super().__init__()
        self.url, self.stopped = urlsplit(url), stopped
        self.answers: list[tuple[float, str]] = []
        self.failures: list[str] = []

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.url.hostname or "", self.url.port, timeout=20)
        while not self.stopped.is_set():
            sent = time.monotonic()
            try:
                connection.request(
                    "POST", "/predict", TRANSACTION, {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            if answer.status == 200:
                self.answers.append((sent, json.loads(body)["model_version"]))
            else:
                self.failures.append(f"{answer.status} {body[:200]!r}")
        connection.close()


def main() -> None:
    stopped = threading.Event()
    clients = [LoadClient(sys.argv[1], stopped) for _ in range(int(sys.argv[2]))]
    for client in clients:
        client.start()
    sys.stdin.read()
    stopped.set()
    for client in clients:
        client.join(30)
    answers = sorted(answer for client in clients for answer in client.answers)
    print(
        json.dumps(
            {
                "answers": answers,
                "failures": [failure for client in clients for failure in client.failures],
            }
        )
    )


if __name__ == "__main__":
    main()
