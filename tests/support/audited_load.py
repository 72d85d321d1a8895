"""Clients at a pace that log every answer, and send each tenth transaction again: `python -m
tests.support.audited_load URL CLIENTS PAUSE NAME LOG`.

Until standard input closes. LOG gets a JSON line for each answer as soon as it is there, with
what `fraudops audit verify --answers` wants and the transaction_id that was sent; LOG.refused
one for each request that got none, `status` 0 when its connection broke. `at` is of the
machine's monotonic clock. Transaction ids are NAME-CLIENT-NUMBER.
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

from tests.support.known_transaction import TRANSACTION

AGAIN_TH = 10


class AuditedClient(threading.Thread):
    def __init__(
        self,
        url: str,
        pause: float,
        name: str,
        answers: TextIO,
        refused: TextIO,
        stopped: threading.Event,
    ) -> None:
        super().__init__(name=name)
        self.url, self.pause, self.answers, self.refused, self.stopped = (
            urlsplit(url),
            pause,
            answers,
            refused,
            stopped,
        )

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.url.hostname or "", self.url.port, timeout=20)
        transaction, number = json.loads(TRANSACTION), 0
        following = time.monotonic()
        while not self.stopped.wait(max(0.0, following - time.monotonic())):
            following = max(following + self.pause, time.monotonic())
            number += 1
            name = f"{self.name}-{number - (number % AGAIN_TH == 0)}"
            sent = time.monotonic()
            try:
                connection.request(
                    "POST",
                    "/predict",
                    json.dumps(transaction | {"transaction_id": name}),
                    {"Content-Type": "application/json"},
                )
                answer = connection.getresponse()
                self.note(
                    answer.status,
                    answer.read(),
                    {"transaction_id": name, "at": sent, "ms": (time.monotonic() - sent) * 1000},
                    answer,
                )
            except (OSError, http.client.HTTPException) as error:
                self.write(
                    self.refused,
                    {"transaction_id": name, "at": sent, "status": 0, "reason": repr(error)},
                )
                connection.close()
        connection.close()

    def note(
        self, status: int, body: bytes, seen: dict[str, Any], answer: http.client.HTTPResponse
    ) -> None:
        if status == 200:
            self.write(self.answers, json.loads(body) | seen)
        else:
            self.write(
                self.refused,
                seen
                | {
                    "status": status,
                    "retry_after": answer.headers.get("Retry-After"),
                    "reason": body[:300].decode(),
                },
            )

    def write(self, file: TextIO, line: dict[str, Any]) -> None:
        """By one write, so that a line is whole whoever reads meanwhile."""
        file.write(json.dumps(line) + "\n")


def main() -> None:
    url, clients, pause, name, log = (
        sys.argv[1],
        int(sys.argv[2]),
        float(sys.argv[3]),
        sys.argv[4],
        Path(sys.argv[5]),
    )
    stopped = threading.Event()
    with (
        log.open("a", buffering=1) as answers,
        log.with_suffix(".refused").open("a", buffering=1) as refused,
    ):
        threads = [
            AuditedClient(url, pause, f"{name}-{number}", answers, refused, stopped)
            for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        stopped.set()
        for thread in threads:
            thread.join(30)


if __name__ == "__main__":
    main()
