"""The compiled scorer of a bundle: the same probabilities as the pipeline, without scikit-learn.

`scorer.json` is `{"kind": "linear", "coefficients": [float64 per feature], "intercept": float}`: probability = sigmoid(coefficients . row + intercept),
scaling and calibration folded in; or `{"kind": "onnx", "slope": a, "intercept": b}` beside `scorer.onnx`, which maps float32 or float64 (n, features) to raw
scores (n,) or (n, 1): probability = sigmoid(a * raw + b).
"""

import importlib
from collections.abc import Callable, Sequence
from math import exp
from operator import mul
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from fraudops.errors import BundleError

SCORER = "scorer.json"
ONNX_MODEL = "scorer.onnx"


class Scorer(Protocol):
    """Thread-safe and read-only once opened."""

    @property
    def kind(self) -> str: ...

    @property
    def features(self) -> int:
        """How many values a row has."""
        ...

    def score(self, row: Sequence[float]) -> float:
        """Probability of fraud of one row, features in schema order."""
        ...

    def score_few(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """As `score`, for a handful of rows at once."""
        ...

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, features) → (n,) probabilities."""
        ...


class LinearParameters(msgspec.Struct, frozen=True, tag_field="kind", tag="linear", forbid_unknown_fields=True):
    """probability = sigmoid(coefficients . row + intercept)."""

    coefficients: tuple[float, ...]
    intercept: float


class OnnxParameters(msgspec.Struct, frozen=True, tag_field="kind", tag="onnx", forbid_unknown_fields=True):
    """probability = sigmoid(slope * raw + intercept), raw from `scorer.onnx`."""

    slope: float
    intercept: float


Parameters = LinearParameters | OnnxParameters


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 / (1 + e^-v) element by element, without overflow at either end."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, small) / (1.0 + small)


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + exp(-value))
    small = exp(value)
    return small / (1.0 + small)


class LinearScorer:
    """One fused dot product. For one row plain floats beat numpy, which would first copy the row into an array."""

    kind = "linear"

    def __init__(self, parameters: LinearParameters) -> None:
        self._coefficients = parameters.coefficients
        self._vector = np.array(parameters.coefficients, dtype=np.float64)
        self._intercept = parameters.intercept

    @property
    def features(self) -> int:
        return len(self._coefficients)

    def score(self, row: Sequence[float]) -> float:
        return _sigmoid(sum(map(mul, self._coefficients, row), self._intercept))

    def score_few(self, rows: Sequence[Sequence[float]]) -> list[float]:
        return [self.score(row) for row in rows]

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return sigmoid(rows @ self._vector + self._intercept)


class OnnxScorer:
    """An ONNX model's raw score through the calibrator's sigmoid; one thread a call, since a pod's workers share its processors."""

    kind = "onnx"

    def __init__(self, parameters: OnnxParameters, model: bytes) -> None:
        session = _session(model)
        source = session.get_inputs()[0]
        self._slope, self._intercept = parameters.slope, parameters.intercept
        self._features, self._input = source.shape[1], source.name
        self._dtype = np.dtype(np.float64 if source.type == "tensor(double)" else np.float32)
        self._run: Callable[[list[str], dict[str, Any]], list[Any]] = session.run
        self._outputs = [session.get_outputs()[0].name]

    @property
    def features(self) -> int:
        return int(self._features)

    def score(self, row: Sequence[float]) -> float:
        return self.score_few([row])[0]

    def score_few(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """One run, which costs most of what a row does."""
        raw = self._run(self._outputs, {self._input: np.array(rows, self._dtype)})[0]
        return [_sigmoid(self._slope * value + self._intercept) for value in raw.ravel().tolist()]

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if not len(rows):
            return np.empty(0)
        raw = self._run(self._outputs, {self._input: np.ascontiguousarray(rows, self._dtype)})[0]
        return sigmoid(self._slope * raw.reshape(-1).astype(np.float64) + self._intercept)


def open_scorer(folder: Path) -> Scorer:
    """Opens the scorer of an already verified bundle. Raises BundleError when it cannot."""
    try:
        parameters = msgspec.json.decode((folder / SCORER).read_bytes(), type=Parameters)
        if isinstance(parameters, LinearParameters):
            return LinearScorer(parameters)
        return OnnxScorer(parameters, (folder / ONNX_MODEL).read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleError(f"the compiled scorer cannot be read: {error}") from error


def _session(model: bytes) -> Any:
    """onnxruntime is imported only here: a linear model never pays for it."""
    runtime = importlib.import_module("onnxruntime")
    runtime.disable_telemetry_events()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Its exceptions share no base class but Exception.
    state = runtime.capi.onnxruntime_pybind11_state
    faults = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented, state.RuntimeException)
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except faults as error:
        raise BundleError(f"{ONNX_MODEL} cannot be opened: {error}") from error
