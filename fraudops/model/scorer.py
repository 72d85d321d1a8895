"""The compiled scorer of a bundle: the same probabilities as the pipeline, without scikit-learn.

`scorer.json` is `{"kind": "linear", "coefficients": [float64 per feature], "intercept": float}`:
probability = sigmoid(coefficients . row + intercept), scaling and calibration folded in; or
`{"kind": "onnx", "slope": a, "intercept": b}` beside `scorer.onnx`, which maps float32 or
float64 (n, features) to raw scores (n,) or (n, 1): probability = sigmoid(a * raw + b).
"""

import importlib
import struct
import threading
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
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
        """As `score`, for a handful of rows at once: what is made for a number of rows is kept."""
        ...

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, features) → (n,) probabilities."""
        ...


class LinearParameters(
    msgspec.Struct, frozen=True, tag_field="kind", tag="linear", forbid_unknown_fields=True
):
    """probability = sigmoid(coefficients . row + intercept)."""

    coefficients: tuple[float, ...]
    intercept: float


class OnnxParameters(
    msgspec.Struct, frozen=True, tag_field="kind", tag="onnx", forbid_unknown_fields=True
):
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
    """One fused dot product.

    For one row plain floats beat numpy, which would first copy the row into an array.
    """

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


class _Bound:
    """One run's rows and raw scores, in arrays that the session reads and writes in place: naming
    and checking them anew would be half of a row's price.
    """

    def __init__(self, session: Any, rows: NDArray[Any], raw: NDArray[Any]) -> None:
        self._run, self._rows, self._raw = session.run_with_iobinding, rows, raw.reshape(-1)
        # numpy takes twice as long to look at each value's type.
        self._doubles = rows if rows.dtype == np.float64 else np.empty(rows.shape)
        self._pack: Callable[..., None] = partial(
            struct.Struct(f"{rows.size}d").pack_into, self._doubles.data, 0
        )
        self._binding = session.io_binding()
        self._binding.bind_cpu_input(session.get_inputs()[0].name, rows)
        # Kept, as is the binding: both only point at the arrays.
        self._out = importlib.import_module("onnxruntime").OrtValue.ortvalue_from_numpy(raw)
        self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._out)

    def __call__(self, rows: Sequence[Sequence[float]]) -> list[float]:
        self._pack(*chain.from_iterable(rows))
        if self._doubles is not self._rows:
            self._rows[:] = self._doubles
        self._run(self._binding)
        raw: list[float] = self._raw.tolist()
        return raw


class _OfThread(threading.local):
    def __init__(self) -> None:
        self.of_size: dict[int, _Bound] = {}


class OnnxScorer:
    """An ONNX model's raw score through the calibrator's sigmoid; one thread a call, since a pod's
    workers share its processors.
    """

    kind = "onnx"

    def __init__(self, parameters: OnnxParameters, model: bytes) -> None:
        self._session = _session(model)
        source, target = self._session.get_inputs()[0], self._session.get_outputs()[0]
        self._slope, self._intercept = parameters.slope, parameters.intercept
        self._features, self._input, self._output = source.shape[1], source.name, target.name
        self._dtype, self._raw_dtype = _dtype(source), _dtype(target)
        self._raw_is_flat = len(target.shape) == 1
        self._mine = _OfThread()

    @property
    def features(self) -> int:
        return int(self._features)

    def score(self, row: Sequence[float]) -> float:
        return self.score_few((row,))[0]

    def score_few(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """One run, which costs most of what a row does."""
        return [
            _sigmoid(self._slope * value + self._intercept)
            for value in self._bound(len(rows))(rows)
        ]

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if not len(rows):
            return np.empty(0)
        raw = self._session.run(
            [self._output], {self._input: np.ascontiguousarray(rows, self._dtype)}
        )[0]
        return sigmoid(self._slope * raw.reshape(-1).astype(np.float64) + self._intercept)

    def _bound(self, size: int) -> _Bound:
        """This thread's own for so many rows."""
        bound = self._mine.of_size.get(size)
        if bound is None:
            raw = np.empty(size if self._raw_is_flat else (size, 1), self._raw_dtype)
            bound = self._mine.of_size[size] = _Bound(
                self._session, np.empty((size, self._features), self._dtype), raw
            )
        return bound


def _dtype(tensor: Any) -> np.dtype[Any]:
    return np.dtype(np.float64 if tensor.type == "tensor(double)" else np.float32)


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
    # Only what is fatal. Of a run that fails it would write a line to standard error, with values
    # of the row in it, and the error that it raises says the same.
    options.log_severity_level = 4
    # Its exceptions share no base class but Exception.
    state = runtime.capi.onnxruntime_pybind11_state
    faults = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
    )
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except faults as error:
        raise BundleError(f"{ONNX_MODEL} cannot be opened: {error}") from error
