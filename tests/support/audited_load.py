"""Clients that post to /predict at a fixed pace and log every answer.

Run `python -m tests.support.audited_load URL CLIENTS PAUSE NAME LOG`. The clients stop when
standard input closes.

LOG gets one JSON line per answer, as soon as the answer arrives. The line holds the fields that
`fraudops audit verify --answers` needs, and the transaction_id that was sent. LOG.refused gets one
line per request without a 200; its `status` is 0 if the connection broke. `at` is from the
machine's monotonic clock. Transaction ids are NAME-CLIENT-NUMBER. Every fifth transaction repeats
the one before it.
"""

import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from tests.support.known_transaction import TRANSACTION
from tests.support.load import (
    NO_ANSWER,
    PredictAnswer,
    PredictConnection,
    run_until_stdin_closes,
)

REPEAT_EVERY = 5


@dataclass(frozen=True)
class AnswerFiles:
    answers: TextIO
    refused: TextIO

    def log(self, sent: dict[str, Any], answer: PredictAnswer) -> None:
        if answer.status == 200:
            self._write(self.answers, json.loads(answer.body) | sent)
            return
        refusal = {
            "status": answer.status,
            "retry_after": answer.retry_after,
            "reason": answer.body[:300].decode(),
        }
        self._write(self.refused, sent | refusal)

    def log_broken(self, sent: dict[str, Any], error: Exception) -> None:
        self._write(self.refused, sent | {"status": 0, "reason": repr(error)})

    def _write(self, file: TextIO, line: dict[str, Any]) -> None:
        # One write per line: a reader never sees a part of a line that ends in a line break.
        file.write(json.dumps(line) + "\n")


class AuditedClient(threading.Thread):
    def __init__(
        self, url: str, pause: float, name: str, files: AnswerFiles, stopped: threading.Event
    ) -> None:
        super().__init__(name=name)
        self.connection, self.pause = PredictConnection(url), pause
        self.files, self.stopped = files, stopped

    def run(self) -> None:
        transaction, number = json.loads(TRANSACTION), 0
        due = time.monotonic()
        while not self.stopped.wait(max(0.0, due - time.monotonic())):
            # After a slow answer the pace starts again from now, without a burst to catch up.
            due = max(due + self.pause, time.monotonic())
            number += 1
            name = f"{self.name}-{number - (number % REPEAT_EVERY == 0)}"
            self._send(name, json.dumps(transaction | {"transaction_id": name}))
        self.connection.close()

    def _send(self, name: str, body: str) -> None:
        started = time.monotonic()
        sent = {"transaction_id": name, "at": started}
        try:
            answer = self.connection.post(body)
        except NO_ANSWER as error:
            self.files.log_broken(sent, error)
            return
        self.files.log(sent | {"ms": (time.monotonic() - started) * 1000}, answer)


def main() -> None:
    url, clients, pause, name, log = sys.argv[1:6]
    stopped, path = threading.Event(), Path(log)
    # Line buffering: a test reads the files while the clients write.
    with (
        path.open("a", buffering=1) as answers,
        path.with_suffix(".refused").open("a", buffering=1) as refused,
    ):
        files = AnswerFiles(answers, refused)
        threads = [
            AuditedClient(url, float(pause), f"{name}-{number}", files, stopped)
            for number in range(int(clients))
        ]
        run_until_stdin_closes(threads, stopped)


if __name__ == "__main__":
    main()
