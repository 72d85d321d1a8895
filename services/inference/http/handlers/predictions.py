"""/predict and /predict/batch: a request ends with the model that it began with."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Annotated, Any

import msgspec

from fraudops.ids import uuid7
from services.inference.http.context import ServiceContext
from services.inference.http.handlers.charges import charged_rows
from services.inference.http.messages import HttpRequest, HttpResponse
from services.inference.http.problems import DeadlinePassedError
from services.inference.model import LoadedModel
from services.inference.pod.status import NotReadyError
from services.inference.reading.faults import InvalidBodyError
from services.inference.reading.rows import BATCH_ROWS, TRANSACTIONS, read_rows
from services.inference.scoring import ScoredBatch, ScoringContext

_encode = msgspec.json.Encoder().encode


class Transaction(msgspec.Struct):
    """A number for each feature of the model.

    No model is served yet: its features appear here once one is promoted.
    """


class Transactions(msgspec.Struct, forbid_unknown_fields=True):
    """Transactions of which all are scored, or none."""

    transactions: Annotated[list[Transaction], msgspec.Meta(min_length=1, max_length=BATCH_ROWS)]


async def predict(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Score one transaction."""
    model = serving_model(context, request)
    with counted_refusals(context, request, model):
        transaction = model.reader.read(request.body)
    scoring = ScoringContext(model, request.request_id, request.received, request.client)
    scored = await context.scoring.one(scoring, transaction)
    return HttpResponse(_encode(scored), request_id=request.request_id or scored.prediction_id)


async def predict_batch(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Score many transactions, all or none."""
    model, request_id = serving_model(context, request), request.request_id or uuid7()
    scoring = ScoringContext(model, request_id, request.received, request.client)
    with counted_refusals(context, request, model), charged_rows(context, request) as count:
        rows = read_rows(model.reader, TRANSACTIONS, request.body, count)
        scored = await context.scoring.many(scoring, before_deadline(rows, request.deadline))
    return HttpResponse(_encode(ScoredBatch(scored)), request_id=request_id)


def serving_model(context: ServiceContext, request: HttpRequest) -> LoadedModel:
    """Return the model that served when the request began. Raises NotReadyError."""
    serving = request.serving or context.worker.serving
    if serving is None:
        raise NotReadyError(context.status.why_no_model())
    return serving.model


@contextmanager
def counted_refusals(
    context: ServiceContext, request: HttpRequest, model: LoadedModel
) -> Iterator[None]:
    """Count the transactions that are refused within the block."""
    try:
        yield
    except InvalidBodyError as refusal:
        context.refusals.note(request.route.label, model.version, refusal.faults)
        raise


async def before_deadline(
    chunks: AsyncIterator[list[Any]], deadline: float | None
) -> AsyncIterator[list[Any]]:
    """Yield the chunks until the client's deadline. Raises DeadlinePassedError."""
    async for chunk in chunks:
        if deadline is not None and perf_counter() > deadline:
            raise DeadlinePassedError
        yield chunk
