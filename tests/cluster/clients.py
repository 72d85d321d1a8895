"""Clients in a pod of the cluster, on kept-alive connections through the Service.

`python clients.py URL RATE CONNECTIONS FOLDER` posts FOLDER/transaction.json until the file
/tmp/stop exists. It sends the key in FRAUDOPS_API_KEY if there is one. No request is repeated. Then
it prints one JSON object. Its `runs` are lists [first sent, last sent, version, count, first
answered] in the order of sending. The times are seconds of the wall clock, which all pods of a node
share. Its `failures` are pairs of time and text. The ids of all answers are in /tmp/answers.

It uses the standard library only, because a ConfigMap mounts this one file into a pod.
"""

import http.client
import itertools
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

STOP, ANSWERS = Path("/tmp/stop"), Path("/tmp/answers")
HEADERS = {"Content-Type": "application/json"}
if KEY := os.environ.get("FRAUDOPS_API_KEY"):
    HEADERS["Authorization"] = f"Bearer {KEY}"


class Answer(NamedTuple):
    sent: float
    version: str
    id: str
    answered: float


class Client(threading.Thread):
    """A client that sends a request every `pause` seconds.

    A broken connection fails its request, and the next request opens a new connection.
    """

    def __init__(self, url: str, pause: float, body: bytes) -> None:
        super().__init__()
        self.url, self.pause, self.body = urlsplit(url), pause, body
        self.answers: list[Answer] = []
        self.failures: list[tuple[float, str]] = []

    def run(self) -> None:
        connection = self.connection()
        following = time.monotonic()
        while not STOP.exists():
            # After a slow answer, catch up with at most one second of requests.
            following = max(following + self.pause, time.monotonic() - 1)
            sent = time.time()
            try:
                connection.request("POST", "/predict", self.body, HEADERS)
                answer = connection.getresponse()
                self.note(sent, answer.status, answer.read())
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((sent, repr(error)))
                connection.close()
            time.sleep(max(0.0, following - time.monotonic()))
        connection.close()

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.url.hostname or "", self.url.port or 80, timeout=30)

    def note(self, sent: float, status: int, body: bytes) -> None:
        if status != 200:
            self.failures.append((sent, f"{status} {body[:300]!r}"))
            return
        answer = json.loads(body)
        found = answer["model_version"], answer["prediction_id"]
        self.answers.append(Answer(sent, *found, time.time()))


def runs(answers: list[Answer]) -> list[list[object]]:
    """Merge consecutive answers of one version, in the form that `main` prints."""
    merged: list[list[object]] = []
    for version, group in itertools.groupby(answers, lambda answer: answer.version):
        run = list(group)
        answered = min(answer.answered for answer in run)
        merged.append([run[0].sent, run[-1].sent, version, len(run), answered])
    return merged


def main() -> None:
    url, rate, connections, folder = (
        sys.argv[1],
        float(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
    )
    body = (folder / "transaction.json").read_bytes()
    clients = [Client(url, connections / rate, body) for _ in range(connections)]
    for client in clients:
        client.start()
        time.sleep(1 / rate)
    for client in clients:
        client.join()
    answers = sorted(answer for client in clients for answer in client.answers)
    ANSWERS.write_text("".join(f"{answer.id}\n" for answer in answers))
    print(
        json.dumps(
            {
                "runs": runs(answers),
                "failures": sorted(failure for client in clients for failure in client.failures)[
                    :50
                ],
            }
        ),
        flush=True,
    )
    # The test still has to read the answers, so the pod runs until it is deleted.
    while STOP.exists():
        time.sleep(1)


if __name__ == "__main__":
    main()
