"""The short way of /predict: requests that arrive together are scored, audited by one write,
counted and answered together, below ASGI.

What is out of the ordinary (a refused body, a draining pod, no model, an audit that must wait)
is left to the dispatcher, which answers everything.
"""

import asyncio
from time import perf_counter
from typing import Protocol

import msgspec

from fraudops.errors import StoreDownError
from fraudops.ids import uuid7
from services.inference.audit.writers import Audit
from services.inference.failures import FailureLog
from services.inference.http.media import JSON
from services.inference.http.problems import Headers, problem_response
from services.inference.metrics import Metrics
from services.inference.pod.worker import Drain, Worker
from services.inference.scoring import PendingRequest, Scoring

PREDICT = "/predict"
# So many are about 2 ms of work: more would keep other connections waiting.
MAX_BATCH = 64

_encode = msgspec.json.Encoder().encode


class Responder(Protocol):
    """Who waits for an answer."""

    def reply(self, status: int, headers: Headers, body: bytes, request_id: str) -> None: ...


class FastPath:
    """One worker's requests between their arrival and the end of the event loop's turn."""

    def __init__(
        self,
        worker: Worker,
        scoring: Scoring,
        audit: Audit,
        metrics: Metrics,
        drain: Drain,
        failures: FailureLog,
    ) -> None:
        self._failures = failures
        self._worker, self._scoring, self._audit, self._metrics, self._drain = (
            worker,
            scoring,
            audit,
            metrics,
            drain,
        )
        self._callers: list[Responder] = []
        self._asked: list[PendingRequest] = []

    def submit(
        self, caller: Responder, body: bytes, request_id: str | None, started: float
    ) -> bool:
        """True if the caller gets its answer within this turn of the loop;

        `started` is perf_counter's.
        """
        serving = self._worker.serving
        if serving is None or self._drain.active or self._audit.waits:
            return False
        model = serving.model
        try:
            transaction = model.reader.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return False
        if not self._callers:
            asyncio.get_running_loop().call_soon(self.flush)
        self._callers.append(caller)
        self._asked.append(PendingRequest(model, transaction, request_id, started))
        if len(self._callers) >= MAX_BATCH:
            self.flush()
        return True

    def flush(self) -> None:
        """Answers everybody who waits."""
        callers, asked = self._callers, self._asked
        if not callers:
            return
        self._callers, self._asked = [], []
        try:
            scored = self._scoring.at_once(asked)
        except StoreDownError as error:
            self._refuse(callers, asked, error)
        except Exception as error:  # noqa: BLE001 (logged once a kind and period)
            # The boundary of these requests: whoever waits must get an answer, and one that cannot
            # be scored must not take the others along.
            if len(asked) > 1:
                for caller, one in zip(callers, asked, strict=True):
                    self._callers, self._asked = [caller], [one]
                    self.flush()
                return
            self._failures.note(error)
            self._refuse(callers, asked, error)
        else:
            self._count(asked, 200)
            for caller, one, answer in zip(callers, asked, scored, strict=True):
                caller.reply(200, [JSON], _encode(answer), one.request_id or answer.prediction_id)

    def _refuse(
        self, callers: list[Responder], asked: list[PendingRequest], error: Exception
    ) -> None:
        status, headers, body = problem_response(error)
        self._count(asked, status)
        for caller, one in zip(callers, asked, strict=True):
            caller.reply(status, headers, body, one.request_id or uuid7())

    def _count(self, asked: list[PendingRequest], status: int) -> None:
        now = perf_counter()
        self._metrics.answered_together(
            "POST", PREDICT, status, [now - one.received for one in asked]
        )
