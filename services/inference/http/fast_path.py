"""The fast path of /predict: requests of one turn of the event loop are answered together.

They are scored, audited by one write, counted and answered below ASGI. The dispatcher answers all
other requests: a refused body, a draining pod, no model, an audit that must wait.
"""

import asyncio
from time import perf_counter
from typing import Protocol

import msgspec

from fraudops.errors import StoreDownError
from fraudops.ids import uuid7
from services.inference.audit.writers import Audit
from services.inference.failures import FailureLog
from services.inference.http.error_answers import error_response
from services.inference.http.media import JSON
from services.inference.http.problems import DeadlinePassedError, Headers
from services.inference.metrics import Metrics
from services.inference.pod.worker import Drain, Worker
from services.inference.scoring import PendingRequest, Scoring

PREDICT = "/predict"
# About 2 ms of work. A larger batch would delay other connections.
MAX_BATCH = 64

_encode = msgspec.json.Encoder().encode


class Responder(Protocol):
    """A connection that waits for an answer."""

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
        self._has_deadlines = False

    def submit(
        self,
        caller: Responder,
        body: bytes,
        request_id: str | None,
        received: float,
        client: str | None = None,
        deadline: float | None = None,
    ) -> bool:
        """Return whether the caller gets its answer within this turn of the loop.

        If not, the dispatcher must answer it. `received` and the client's `deadline` are times of
        perf_counter, in seconds.
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
        self._asked.append(
            PendingRequest(model, transaction, request_id, received, client, deadline)
        )
        self._has_deadlines = self._has_deadlines or deadline is not None
        if len(self._callers) >= MAX_BATCH:
            self.flush()
        return True

    def flush(self) -> None:
        """Answer all requests that wait."""
        callers, asked = self._callers, self._asked
        if not callers:
            return
        self._callers, self._asked = [], []
        if self._has_deadlines:
            callers, asked = self._shed(callers, asked)
            if not callers:
                return
        try:
            scored = self._scoring.at_once(asked)
        except StoreDownError as error:
            self._refuse(callers, asked, error)
        except Exception as error:  # noqa: BLE001 (logged once a kind and period)
            # The boundary of these requests: each client must get an answer, and a request that
            # cannot be scored must not take the others along.
            if len(asked) > 1:
                for caller, one in zip(callers, asked, strict=True):
                    self._callers, self._asked = [caller], [one]
                    self.flush()
                return
            # The log line and the answer have the same id.
            (one,) = asked
            one = one._replace(request_id=one.request_id or uuid7())
            self._failures.note(error, one.request_id)
            self._refuse(callers, [one], error)
        else:
            self._count(asked, 200)
            for caller, one, answer in zip(callers, asked, scored, strict=True):
                caller.reply(200, [JSON], _encode(answer), one.request_id or answer.prediction_id)

    def _shed(
        self, callers: list[Responder], asked: list[PendingRequest]
    ) -> tuple[list[Responder], list[PendingRequest]]:
        """Refuse the requests whose deadline has passed, and return the others."""
        self._has_deadlines, now = False, perf_counter()
        in_time: tuple[list[Responder], list[PendingRequest]] = ([], [])
        for caller, one in zip(callers, asked, strict=True):
            if one.deadline is not None and now > one.deadline:
                self._metrics.shed(PREDICT)
                self._refuse([caller], [one], DeadlinePassedError())
            else:
                in_time[0].append(caller)
                in_time[1].append(one)
        return in_time

    def _refuse(
        self, callers: list[Responder], asked: list[PendingRequest], error: Exception
    ) -> None:
        status, headers, body = error_response(error, PREDICT)
        self._count(asked, status)
        for caller, one in zip(callers, asked, strict=True):
            caller.reply(status, headers, body, one.request_id or uuid7())

    def _count(self, asked: list[PendingRequest], status: int) -> None:
        now = perf_counter()
        self._metrics.answered_together(
            "POST", PREDICT, status, [now - one.received for one in asked]
        )
