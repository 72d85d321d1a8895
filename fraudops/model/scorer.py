"""The compiled scorer of a bundle: the pipeline's probabilities without scikit-learn.

`scorer.json` has one of two forms.

* `{"kind": "linear", "coefficients": [float64 per feature], "intercept": float}`:
  probability = sigmoid(coefficients . row + intercept). The coefficients include the scaling and
  the calibration.
* `{"kind": "onnx", "slope": a, "intercept": b}`: probability = sigmoid(a * raw + b). The file
  `scorer.onnx` maps float32 or float64 rows (n, features) to raw scores (n,) or (n, 1).
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
    """A model that scores rows. Several threads may use one scorer."""

    @property
    def kind(self) -> str: ...

    @property
    def features(self) -> int:
        """The number of values in a row."""
        ...

    def score(self, row: Sequence[float]) -> float:
        """Return the probability of fraud of one row, with its features in schema order."""
        ...

    def score_few(self, rows: Sequence[Sequence[float]]) -> list[float]:
        """Return the probability of fraud of each of a few rows.

        Each thread keeps a set of buffers for every number of rows that it has scored. So call it
        with only a few different numbers of rows.
        """
        ...

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probabilities of fraud: (n, features) → (n,)."""
        ...


class LinearParameters(
    msgspec.Struct, frozen=True, tag_field="kind", tag="linear", forbid_unknown_fields=True
):
    """Parameters of probability = sigmoid(coefficients . row + intercept)."""

    coefficients: tuple[float, ...]
    intercept: float


class OnnxParameters(
    msgspec.Struct, frozen=True, tag_field="kind", tag="onnx", forbid_unknown_fields=True
):
    """Parameters of probability = sigmoid(slope * raw + intercept), with raw from `scorer.onnx`."""

    slope: float
    intercept: float


Parameters = LinearParameters | OnnxParameters


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + e^-v) of each element, without overflow for large or small values."""
    small = np.exp(-np.abs(values))
    return np.where(values >= 0, 1.0, small) / (1.0 + small)


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1.0 / (1.0 + exp(-value))
    small = exp(value)
    return small / (1.0 + small)


class LinearScorer:
    """A scorer that is one dot product; scaling and calibration are part of its coefficients."""

    kind = "linear"

    def __init__(self, parameters: LinearParameters) -> None:
        self._coefficients = parameters.coefficients
        self._vector = np.array(parameters.coefficients, dtype=np.float64)
        self._intercept = parameters.intercept

    @property
    def features(self) -> int:
        return len(self._coefficients)

    def score(self, row: Sequence[float]) -> float:
        # Plain floats are faster than numpy here, which would first copy the row into an array.
        return _sigmoid(sum(map(mul, self._coefficients, row), self._intercept))

    def score_few(self, rows: Sequence[Sequence[float]]) -> list[float]:
        return [self.score(row) for row in rows]

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return sigmoid(rows @ self._vector + self._intercept)


class _BoundRun:
    """A run of an ONNX session over a fixed number of rows, with arrays that it reuses.

    The session reads the rows and writes the raw scores in place. Binding and checking new arrays
    for each run would double the time of a single row. Not thread-safe.
    """

    def __init__(self, session: Any, rows: NDArray[Any], raw: NDArray[Any]) -> None:
        self._run, self._rows, self._raw = session.run_with_iobinding, rows, raw.reshape(-1)
        # struct packs the values: numpy looks at the type of each one, which takes twice as long.
        # It packs doubles only, so a float32 model needs a second array.
        self._doubles = rows if rows.dtype == np.float64 else np.empty(rows.shape)
        self._pack: Callable[..., None] = partial(
            struct.Struct(f"{rows.size}d").pack_into, self._doubles.data, 0
        )
        self._binding = session.io_binding()
        self._binding.bind_cpu_input(session.get_inputs()[0].name, rows)
        # The binding points at the memory of these arrays. They must live as long as the binding.
        self._out = importlib.import_module("onnxruntime").OrtValue.ortvalue_from_numpy(raw)
        self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._out)

    def __call__(self, rows: Sequence[Sequence[float]]) -> list[float]:
        self._pack(*chain.from_iterable(rows))
        if self._doubles is not self._rows:
            self._rows[:] = self._doubles
        self._run(self._binding)
        raw: list[float] = self._raw.tolist()
        return raw


class _ThreadRuns(threading.local):
    def __init__(self) -> None:
        self.by_size: dict[int, _BoundRun] = {}


class OnnxScorer:
    """A scorer that applies the calibrator's sigmoid to the raw score of an ONNX model."""

    kind = "onnx"

    def __init__(self, parameters: OnnxParameters, model: bytes) -> None:
        self._session = _session(model)
        source, target = self._session.get_inputs()[0], self._session.get_outputs()[0]
        self._slope, self._intercept = parameters.slope, parameters.intercept
        self._features, self._input, self._output = source.shape[1], source.name, target.name
        self._dtype, self._raw_dtype = _dtype(source), _dtype(target)
        self._raw_is_flat = len(target.shape) == 1
        self._runs = _ThreadRuns()

    @property
    def features(self) -> int:
        return int(self._features)

    def score(self, row: Sequence[float]) -> float:
        return self.score_few((row,))[0]

    def score_few(self, rows: Sequence[Sequence[float]]) -> list[float]:
        # One run for all rows: starting a run takes most of the time of a row.
        raw = self._bound_run(len(rows))(rows)
        return [_sigmoid(self._slope * value + self._intercept) for value in raw]

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if not len(rows):
            return np.empty(0)
        raw = self._session.run(
            [self._output], {self._input: np.ascontiguousarray(rows, self._dtype)}
        )[0]
        return sigmoid(self._slope * raw.reshape(-1).astype(np.float64) + self._intercept)

    def _bound_run(self, size: int) -> _BoundRun:
        # One per thread, because two threads must not write into the same arrays.
        bound = self._runs.by_size.get(size)
        if bound is None:
            raw = np.empty(size if self._raw_is_flat else (size, 1), self._raw_dtype)
            bound = self._runs.by_size[size] = _BoundRun(
                self._session, np.empty((size, self._features), self._dtype), raw
            )
        return bound


def _dtype(tensor: Any) -> np.dtype[Any]:
    return np.dtype(np.float64 if tensor.type == "tensor(double)" else np.float32)


def open_scorer(folder: Path) -> Scorer:
    """Open the scorer of a verified bundle.

    Raises BundleError when its files cannot be read.
    """
    try:
        parameters = msgspec.json.decode((folder / SCORER).read_bytes(), type=Parameters)
        if isinstance(parameters, LinearParameters):
            return LinearScorer(parameters)
        return OnnxScorer(parameters, (folder / ONNX_MODEL).read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise BundleError(f"the compiled scorer cannot be read: {error}") from error


def _session(model: bytes) -> Any:
    # Imported here, because a linear model does not need it and it takes long to import.
    runtime = importlib.import_module("onnxruntime")
    runtime.disable_telemetry_events()
    options = runtime.SessionOptions()
    # One thread per call: the workers of a pod share its CPUs.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Log fatal errors only. For a failed run, onnxruntime would write a line with values of the row
    # to standard error. The exception that it raises says the same.
    options.log_severity_level = 4
    # The exceptions of onnxruntime have no common base class other than Exception.
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
