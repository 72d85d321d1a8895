"""The rows of the Open Inference Protocol in the table of routes."""

from functools import partial

from services.inference.http.bodies import SINGLE_BYTES
from services.inference.http.error_answers import V2
from services.inference.http.handlers import inference_protocol as protocol
from services.inference.http.messages import BodyRule, Route
from services.inference.http.tensor_metadata import ModelMetadata, ServerMetadata

TENSOR_BYTES = 16 << 20
# Small bodies are single transactions, which wait for no permit.
_TENSORS = BodyRule(TENSOR_BYTES, media="any", permits="batches", permits_above=SINGLE_BYTES)
_MODEL, _VERSION = f"{V2}/models/{{model}}", f"{V2}/models/{{model}}/versions/{{version}}"
_LABEL = f"{V2}/models"

_shown = partial(Route, "GET", port="public", tag="open inference protocol")
_infer = partial(
    Route,
    "POST",
    handler=protocol.infer,
    port="public",
    scope="predict",
    label=f"{_LABEL}/infer",
    tag="open inference protocol",
    body=_TENSORS,
    request=protocol.InferenceRequest,
    response=protocol.InferenceAnswer,
    scores=True,
)

INFERENCE_ROUTES: tuple[Route, ...] = (
    _shown(
        V2,
        protocol.server,
        scope="read",
        label=V2,
        summary="The service and its extensions of the protocol",
        response=ServerMetadata,
    ),
    _shown(
        f"{V2}/health/live",
        protocol.live,
        scope=None,
        label=f"{V2}/health/live",
        summary="The server lives",
        response=protocol.Live,
    ),
    _shown(
        f"{V2}/health/ready",
        protocol.ready,
        scope=None,
        label=f"{V2}/health/ready",
        summary="The server is ready, as in /ready",
        response=protocol.LiveAndReady,
    ),
    _shown(
        _LABEL,
        protocol.models,
        scope="read",
        label=_LABEL,
        summary="The names of the served models",
        response=protocol.ModelNames,
    ),
    _shown(
        _MODEL,
        protocol.model_metadata,
        scope="read",
        label=f"{_LABEL}/metadata",
        summary="The tensors of the served model",
        response=ModelMetadata,
    ),
    _shown(
        _VERSION,
        protocol.model_metadata,
        scope="read",
        label=f"{_LABEL}/metadata",
        summary="The tensors of a version, if it serves",
        response=ModelMetadata,
    ),
    _shown(
        f"{_MODEL}/ready",
        protocol.model_ready,
        scope=None,
        label=f"{_LABEL}/ready",
        summary="The model is ready",
        response=protocol.ModelReady,
    ),
    _shown(
        f"{_VERSION}/ready",
        protocol.model_ready,
        scope=None,
        label=f"{_LABEL}/ready",
        summary="The version serves and is ready",
        response=protocol.ModelReady,
    ),
    _infer(f"{_MODEL}/infer", summary="Score the rows of tensors, all or none"),
    _infer(f"{_VERSION}/infer", summary="Score the rows of tensors, if the version serves"),
)
