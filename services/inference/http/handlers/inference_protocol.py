"""/v2: the Open Inference Protocol over REST, for its public clients.

An inference is scored, audited, counted and refused as /predict and /predict/batch do it.
"""

from typing import Annotated, Any, Literal

import msgspec

from fraudops.ids import uuid7
from services.inference.http.context import ServiceContext
from services.inference.http.handlers.charges import charged_rows
from services.inference.http.handlers.predictions import (
    before_deadline,
    counted_refusals,
    serving_model,
)
from services.inference.http.messages import HttpRequest, HttpResponse
from services.inference.http.problems import NoSuchModelError
from services.inference.http.tensor_metadata import OUTPUTS, ServerMetadata, metadata_of
from services.inference.model import LoadedModel
from services.inference.reading.envelopes import MOST_ID
from services.inference.reading.faults import FieldFault, InvalidBodyError
from services.inference.reading.identifiers import is_identifier
from services.inference.reading.tensors import TensorRequest, read_tensors
from services.inference.scoring import Scored, ScoringContext

LENGTH = b"inference-header-content-length"
_encode = msgspec.json.Encoder().encode


class Live(msgspec.Struct):
    """The process lives."""

    live: Literal[True] = True


class LiveAndReady(msgspec.Struct):
    """Every worker has the promoted model open, or none has been promoted yet."""

    ready: Literal[True] = True
    live: Literal[True] = True


class ModelNames(msgspec.Struct):
    """The names of the models that are served: one, or none before the first promotion."""

    models: list[str]


class ModelReady(msgspec.Struct):
    """The model answers."""

    name: str
    ready: Literal[True] = True


class InputTensor(msgspec.Struct, omit_defaults=True):
    """All features of shape [n, features] or [features], or one feature of shape [n] or [n, 1].

    `data` is a flat list, or one of rows. Without it, `binary_data_size` of `parameters` says how
    many bytes behind the JSON are the values. `transaction_id` and `entity_key` are of type BYTES.
    """

    name: str
    shape: Annotated[list[int], msgspec.Meta(min_length=1, max_length=2)]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class OutputName(msgspec.Struct):
    """An output that the client wants."""

    name: Literal["fraud_probability", "prediction", "threshold", "prediction_id"]


class InferenceRequest(msgspec.Struct, omit_defaults=True):
    """Transactions as tensors.

    `parameters` may have `transaction_id` and `entity_key`, or with several rows the lists
    `transaction_ids` and `entity_keys`. Without `outputs`, the answer has all.
    """

    inputs: Annotated[list[InputTensor], msgspec.Meta(min_length=1)]
    id: Annotated[str, msgspec.Meta(max_length=MOST_ID)] | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[OutputName] | None = None


class OutputTensor(msgspec.Struct):
    """One output, with a value for each transaction."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferenceAnswer(msgspec.Struct):
    """The answer. `id` is the request's, or the first prediction id."""

    model_name: str
    model_version: str
    id: str
    outputs: list[OutputTensor]


async def server(_context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    return HttpResponse(_encode(ServerMetadata()))


async def live(_context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    return HttpResponse(_encode(Live()))


async def ready(context: ServiceContext, _request: HttpRequest) -> HttpResponse:
    """Raises NotReadyError with the reason."""
    await context.status.ready()
    return HttpResponse(_encode(LiveAndReady()))


async def models(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    serving = request.serving or context.worker.serving
    return HttpResponse(_encode(ModelNames([serving.model.name] if serving else [])))


async def model_metadata(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Raises NotReadyError, NoSuchModelError."""
    return HttpResponse(_encode(metadata_of(_named_model(context, request))))


async def model_ready(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Raises NotReadyError, NoSuchModelError."""
    model = _named_model(context, request)
    await context.status.ready()
    return HttpResponse(_encode(ModelReady(model.name)))


async def infer(context: ServiceContext, request: HttpRequest) -> HttpResponse:
    """Score the rows of tensors, all or none."""
    model = _named_model(context, request)
    with counted_refusals(context, request, model), charged_rows(context, request) as count:
        asked = await read_tensors(model.reader, request.body, _json_bytes(request), count)
        outputs = _outputs(asked)
        request_id = request.request_id
        if request_id is None and asked.id and is_identifier(asked.id):
            request_id = asked.id
        if asked.rows > 1:
            request_id = request_id or uuid7()
        scored = await _scored(context, request, asked, model, request_id)
    answer = InferenceAnswer(
        model.name, model.version, asked.id or scored[0].prediction_id, _tensors(outputs, scored)
    )
    return HttpResponse(_encode(answer), request_id=request_id or scored[0].prediction_id)


async def _scored(
    context: ServiceContext,
    request: HttpRequest,
    asked: TensorRequest,
    model: LoadedModel,
    request_id: str | None,
) -> list[Scored]:
    scoring = ScoringContext(model, request_id, request.received, request.client)
    if asked.rows > 1:
        return await context.scoring.many(
            scoring, before_deadline(asked.chunks(), request.deadline)
        )
    return [
        await context.scoring.one(scoring, transaction)
        async for transactions in asked.chunks()
        for transaction in transactions
    ]


def _named_model(context: ServiceContext, request: HttpRequest) -> LoadedModel:
    """Return the served model, if the path names it. Raises NotReadyError, NoSuchModelError."""
    model = serving_model(context, request)
    version = request.parameters.get("version", model.version)
    if (request.parameters["model"], version) != (model.name, model.version):
        raise NoSuchModelError
    return model


def _json_bytes(request: HttpRequest) -> int | None:
    """Return how many bytes of the body are JSON, or None for all. Raises InvalidBodyError."""
    length = request.headers.get(LENGTH)
    if length is None:
        return None
    # A body is smaller than a number of nine digits.
    if not length.isdigit() or len(length) > 9:
        raise InvalidBodyError(
            [FieldFault(reason="has an Inference-Header-Content-Length that is no length")]
        )
    return int(length)


def _outputs(asked: TensorRequest) -> tuple[str, ...]:
    """Return the outputs of the answer. Raises InvalidBodyError."""
    names = asked.outputs or tuple(OUTPUTS)
    if not set(names) <= OUTPUTS.keys() or len(set(names)) < len(names):
        known = ", ".join(OUTPUTS)
        raise InvalidBodyError(
            [FieldFault(reason=f"must name each output once, of {known}", code="other")]
        )
    return names


def _tensors(names: tuple[str, ...], scored: list[Scored]) -> list[OutputTensor]:
    return [
        OutputTensor(
            name,
            [len(scored)],
            OUTPUTS[name].datatype,
            [OUTPUTS[name].value(each) for each in scored],
        )
        for name in names
    ]
