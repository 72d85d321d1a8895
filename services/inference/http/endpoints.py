"""The calls with a body: each takes the body's bytes and returns the answer's bytes."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal

import msgspec

from fraudops.ids import uuid7
from fraudops.promotion.serving_record import ServingTarget
from services.inference.audit.writers import Audit
from services.inference.http.feedback import accept
from services.inference.http.middleware import SINGLE_BYTES, Call, Endpoint, EndpointResponse
from services.inference.model import LoadedModel
from services.inference.pod.coordinator import PREPARE_SECONDS, PodCoordinator
from services.inference.pod.status import NotReadyError, Status
from services.inference.pod.worker import Worker
from services.inference.reading.faults import FieldFault, InvalidBodyError
from services.inference.reading.rows import TRANSACTIONS, read_rows
from services.inference.reading.transactions import Reader
from services.inference.refusals import RefusalCounter
from services.inference.scoring import ScoredBatch, Scoring, ScoringContext

BATCH_BYTES = 16 << 20
# Batches in memory at once, a worker: at the limit each takes some 50 MB with its rows, answers and
# records.
BATCHES = 2

_encode = msgspec.json.Encoder().encode


class ReloadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a promoter asks of the pod.

    `prepare` opens a version next to the served one. `commit` reads the serving record now, and
    serves what it names. `drop` closes what was prepared. Without a phase the pod commits.
    """

    phase: Literal["prepare", "commit", "drop"] | None = None
    version: Annotated[str, msgspec.Meta(pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")] | None = (
        None
    )
    digest: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")] | None = None
    epoch: Annotated[int, msgspec.Meta(ge=1)] | None = None
    deadline_seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = PREPARE_SECONDS

    @property
    def target(self) -> ServingTarget:
        """What the request names. A missing field is zero or empty, as in `pod_rules.ANY`."""
        return ServingTarget(self.epoch or 0, self.version or "", self.digest or "")


class Predictions:
    """/predict and /predict/batch: a request ends with the model that it began with."""

    def __init__(
        self, worker: Worker, scoring: Scoring, status: Status, refusals: RefusalCounter
    ) -> None:
        self._worker, self._scoring, self._status = worker, scoring, status
        self._refusals = refusals

    async def one(self, call: Call) -> EndpointResponse:
        model = self._model(call)
        context = ScoringContext(model, call.request_id, call.started)
        with self._counted("/predict", model):
            transaction = model.reader.read(call.body)
        scored = await self._scoring.one(context, transaction)
        return EndpointResponse(_encode(scored), call.request_id or scored.prediction_id)

    async def many(self, call: Call) -> EndpointResponse:
        model, request_id = self._model(call), call.request_id or uuid7()
        context = ScoringContext(model, request_id, call.started)
        with self._counted("/predict/batch", model):
            scored = await self._scoring.many(
                context, read_rows(model.reader, TRANSACTIONS, call.body)
            )
        return EndpointResponse(_encode(ScoredBatch(scored)), request_id)

    @contextmanager
    def _counted(self, endpoint: str, model: LoadedModel) -> Iterator[None]:
        """Count the transactions that are refused within the block."""
        try:
            yield
        except InvalidBodyError as refusal:
            self._refusals.note(endpoint, model.version, refusal.faults)
            raise

    def _model(self, call: Call) -> LoadedModel:
        serving = call.serving or self._worker.serving
        if serving is None:
            raise NotReadyError(self._status.why_no_model())
        return serving.model


class Feedback:
    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def __call__(self, call: Call) -> EndpointResponse:
        accepted = await accept(call.body, self._audit)
        return EndpointResponse(_encode({"accepted": accepted}), call.request_id or uuid7(), 202)


class Reload:
    def __init__(self, pod: PodCoordinator, status: Status) -> None:
        self._pod, self._status = pod, status
        self._reader = Reader(ReloadRequest)

    async def __call__(self, call: Call) -> EndpointResponse:
        """Answer once every worker of the pod has done it.

        Raises RefusedError, which is final, and StoreDownError, after which the same call may
        succeed.
        """
        request = self._reader.read(call.body or b"{}")
        if request.phase == "prepare":
            _require(request, "version", "digest")
            await self._pod.prepare(request.target, request.deadline_seconds)
        elif request.phase == "drop":
            _require(request, "digest")
            await self._pod.workers.drop(request.target)
        else:
            await self._pod.activate(request.target, request.deadline_seconds)
        return EndpointResponse(_encode(await self._status.reloaded()), call.request_id or uuid7())


class DrainPod:
    def __init__(self, pod: PodCoordinator, status: Status) -> None:
        self._pod, self._status = pod, status

    async def __call__(self, call: Call) -> EndpointResponse:
        """Make every worker ask its clients to leave. The pod is never ready again."""
        await self._pod.workers.drain()
        return EndpointResponse(_encode(await self._status.reloaded()), call.request_id or uuid7())


def _require(request: ReloadRequest, *fields: str) -> None:
    for field in fields:
        if getattr(request, field) is None:
            raise InvalidBodyError(
                [
                    FieldFault(
                        field=field, reason=f"is missing: {request.phase} needs it", code="missing"
                    )
                ]
            )


def endpoints(
    worker: Worker,
    scoring: Scoring,
    audit: Audit,
    pod: PodCoordinator,
    status: Status,
    refusals: RefusalCounter,
) -> Mapping[str, Endpoint]:
    predictions = Predictions(worker, scoring, status, refusals)
    batches = asyncio.Semaphore(BATCHES)
    return {
        "/predict": Endpoint(predictions.one, SINGLE_BYTES),
        "/predict/batch": Endpoint(predictions.many, BATCH_BYTES, gate=batches),
        "/feedback": Endpoint(Feedback(audit), BATCH_BYTES, gate=batches),
        "/reload": Endpoint(Reload(pod, status), SINGLE_BYTES, admin=True, body_required=False),
        "/drain": Endpoint(DrainPod(pod, status), SINGLE_BYTES, admin=True, body_required=False),
    }
