"""The compiled scorer of a bundle: the same probabilities as the pipeline, without scikit-learn.

`scorer.json` is `{"kind": "linear", "coefficients": [float64 per feature], "intercept": float}`: probability = sigmoid(coefficients . row + intercept),
scaling and calibration folded in; or `{"kind": "onnx", "slope": a, "intercept": b}` beside `scorer.onnx`, which maps float32 or float64 (n, features) to raw
scores (n,): probability = sigmoid(a * raw + b).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Scorer(Protocol):
    """Thread-safe and read-only once opened."""

    @property
    def kind(self) -> str: ...

    def score(self, row: Sequence[float]) -> float:
        """Probability of fraud of one row, features in schema order."""
        ...

    def score_many(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, features) → (n,) probabilities."""
        ...


def open_scorer(folder: Path) -> Scorer:
    """Opens the scorer of an already verified bundle. Raises BundleError when it cannot."""
    raise NotImplementedError
