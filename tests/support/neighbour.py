"""An attack on a running service, and what everyone else sees of it."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from fraudops.audit.records import Prediction
from tests.support.figures import Figures
from tests.support.serving import ULB_ROW, Service
from tests.support.waiting import eventually
from tests.support.wire import Outcome, perform_all
from tests.support.wire_cases import CARD, LABEL, SMUGGLED_ID, Case, get

PAUSE_SECONDS = 0.05
# A busy machine is slow. `benchmarks/boundary.py` measures the service itself.
ANSWER_SECONDS = 20.0
MOST_GROWTH_BYTES = 100 << 20
LAST = get("/health", "Connection: close")
JSON_HEADERS = {"Content-Type": "application/json"}


class Neighbour(threading.Thread):
    """A usual client: it calls on a connection that it keeps and on a new one, in turn.

    `ids` are its predictions, `seconds` the times of its calls, and `failures` what went wrong.
    """

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port, self._over = port, threading.Event()
        self.ids: set[str] = set()
        self.seconds: list[float] = []
        self.failures: list[str] = []

    def run(self) -> None:
        kept = self._connection()
        while not ((self.seconds or self.failures) and self._over.wait(PAUSE_SECONDS)):
            new = self._connection()
            for connection in (kept, new):
                try:
                    self._ask(connection)
                except (OSError, http.client.HTTPException) as error:
                    self.failures.append(repr(error))
                    connection.close()
            new.close()
        kept.close()

    def end(self) -> None:
        """End after the call that runs now, or the first one that is answered."""
        self._over.set()
        self.join()

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        started, kept = time.monotonic(), connection.sock is not None
        body = json.dumps({**ULB_ROW, "transaction_id": "neighbour"})
        try:
            connection.request("POST", "/predict", body, JSON_HEADERS)
            answer = connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError):
            # On a busy machine it may have been idle for too long, as any kept connection.
            if not kept:
                raise
            connection.close()
            self._ask(connection)
            return
        content = answer.read()
        self.seconds.append(time.monotonic() - started)
        if answer.status == 200:
            self.ids.add(json.loads(content)["prediction_id"])
        else:
            self.failures.append(f"status {answer.status}")


@dataclass(frozen=True)
class ServiceFacts:
    """What may not change by an attack; `predictions` and `defects` count since the start.

    `pids` are the workers and the bundle verifier.
    """

    pids: frozenset[int]
    pss_bytes: int
    connections: float
    predictions: float
    defects: float

    @classmethod
    def of(cls, service: Service) -> "ServiceFacts":
        # Not those in the answer of /ready: it leaves out a worker that refuses a connection.
        assert service.process
        children = psutil.Process(service.process.pid).children()
        pids, metrics = frozenset(child.pid for child in children), service.metrics()
        return cls(
            pids=pids,
            pss_bytes=sum(psutil.Process(pid).memory_full_info().pss for pid in pids),
            connections=metrics["fraudops_connections"],
            predictions=sum_of(metrics, "fraudops_predictions_total"),
            defects=sum_of(metrics, "http_requests_total", 'status="500"'),
        )


def sum_of(metrics: dict[str, float], name: str, label: str = "") -> float:
    return sum(
        value for key, value in metrics.items() if key.startswith(f"{name}{{") and label in key
    )


@dataclass(frozen=True)
class Attack:
    """Cases that ran at the same time as a neighbour."""

    service: Service
    outcomes: dict[str, Outcome]
    neighbour: Neighbour
    before: ServiceFacts

    @classmethod
    def on(cls, service: Service, cases: Sequence[Case], at_once: int) -> "Attack":
        """Run the cases, at most `at_once` of them at the same time."""
        assert len({case.name for case in cases}) == len(cases)
        # The first calls of a worker load code and fill pools.
        assert permits_are_free(service) == []
        before, neighbour = ServiceFacts.of(service), Neighbour(service.port)
        neighbour.start()
        try:
            clients = [(case.steps, case.expected) for case in cases]
            outcomes = asyncio.run(perform_all(service.port, clients, at_once, LAST))
        finally:
            neighbour.end()
        named = {case.name: outcome for case, outcome in zip(cases, outcomes, strict=True)}
        return cls(service, named, neighbour, before)

    def noted(self, figures: Figures, name: str) -> "Attack":
        """Note how long the neighbour waited, and return this."""
        waits = sorted(self.neighbour.seconds)
        middle, most = (waits[int(len(waits) * share)] * 1000 for share in (0.5, 0.99))
        figures.note(
            f"{name}: cases; calls of the neighbour during it; their median and p99, ms",
            f"{len(self.outcomes)}; {len(waits)}; {middle:.1f}; {most:.1f}",
        )
        return self

    def damage(self) -> list[str]:
        """Return what the attack did to others; an empty list is as it should be."""
        service = self.service
        eventually(self._connections_are_gone, 10)
        after = ServiceFacts.of(service)
        found = [f"neighbour: {failure}" for failure in self.neighbour.failures]
        if not self.neighbour.seconds:
            found.append("the neighbour was never answered")
        if after.pids != self.before.pids:
            found.append(f"processes {set(after.pids)}, before {set(self.before.pids)}")
        if after.pss_bytes - self.before.pss_bytes > MOST_GROWTH_BYTES:
            found.append(f"memory grew by {after.pss_bytes - self.before.pss_bytes >> 20} MiB")
        if after.defects > self.before.defects:
            found.append(f"{after.defects - self.before.defects:g} answers are 500")
        if CARD in service.log:
            found.append("the log has what a client sent")
        return found + permits_are_free(service) + self._unaudited()

    def _connections_are_gone(self) -> None:
        assert self.service.metrics()["fraudops_connections"] <= self.before.connections

    def _unaudited(self) -> list[str]:
        """Compare the spool with the answers: each answered prediction is there, and no other."""
        answered = self.neighbour.ids.union(*map(prediction_ids, self.outcomes.values()))
        records = self.service.audited()
        predictions = [each for each in records if isinstance(each, Prediction)]
        audited = {each.id for each in predictions}
        counted = sum_of(self.service.metrics(), "fraudops_predictions_total")
        found = []
        if lost := answered - audited:
            found.append(f"{len(lost)} answered predictions are not audited")
        if not len(predictions) == len(audited) == counted:
            found.append(f"{len(predictions)} records of {counted:g} counted predictions")
        if any(each.transaction_id == SMUGGLED_ID for each in predictions):
            found.append("a smuggled request was answered")
        return found


def permits_are_free(service: Service) -> list[str]:
    """Return what is refused of one batch and one list of labels."""
    found = []
    for path, content, status in (
        ("/predict/batch", {"transactions": [ULB_ROW]}, 200),
        ("/feedback", {"labels": [LABEL]}, 202),
    ):
        answer = service.post(path, json.dumps(content))
        if answer.status_code != status:
            found.append(f"{path} answers {answer.status_code}")
    return found


def prediction_ids(outcome: Outcome) -> set[str]:
    """Return the ids of the predictions that a client has read."""
    found = set()
    for answer in outcome.answers:
        if answer.status == 200 and b'"prediction_id"' in answer.body:
            content = json.loads(answer.body)
            found |= {each["prediction_id"] for each in content.get("predictions", [content])}
    return found
