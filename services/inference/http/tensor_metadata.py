"""Metadata of the Open Inference Protocol: of the server, and of the served model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from fraudops import __version__
from services.inference.model import LoadedModel
from services.inference.reading.tensor_types import BYTES
from services.inference.reading.tensors import IDS
from services.inference.scoring import Scored

PLATFORM = "fraudops"


class ServerMetadata(msgspec.Struct, frozen=True):
    """The service and what it adds to the protocol."""

    name: str = "fraudops"
    version: str = __version__
    extensions: tuple[str, ...] = ("binary_tensor_data",)


class TensorMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tensor; -1 stands for the number of transactions.

    `parameters` are the range of a feature, or say that the tensor may be left out.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] = msgspec.field(default_factory=tuple)
    parameters: dict[str, float | bool] | None = None


class ModelMetadata(msgspec.Struct, frozen=True):
    """The served model. Its inputs may also be one tensor of shape [-1, features]."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class TensorOutput(NamedTuple):
    """An output: its datatype, and its value for one scored transaction."""

    datatype: str
    value: Callable[[Scored], Any]


OUTPUTS = {
    "fraud_probability": TensorOutput("FP64", lambda scored: scored.fraud_probability),
    "prediction": TensorOutput("INT64", lambda scored: scored.prediction),
    "threshold": TensorOutput("FP64", lambda scored: scored.threshold),
    "prediction_id": TensorOutput(BYTES, lambda scored: scored.prediction_id),
}


def metadata_of(model: LoadedModel) -> ModelMetadata:
    features = [
        TensorMetadata(
            feature.name,
            "FP64",
            (-1,),
            {"minimum": feature.minimum, "maximum": feature.maximum},
        )
        for feature in model.schema.features
    ]
    ids = [TensorMetadata(name, BYTES, (-1,), {"optional": True}) for name in IDS]
    outputs = [TensorMetadata(name, output.datatype, (-1,)) for name, output in OUTPUTS.items()]
    return ModelMetadata(model.name, (model.version,), PLATFORM, (*features, *ids), tuple(outputs))
