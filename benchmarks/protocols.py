"""The protocol of each subject: the body of a request, and the probabilities in an answer."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Protocol:
    """The protocol of one subject.

    `ask` makes the body for some rows. `read` returns their probabilities from the parsed answer;
    it is None for a constant answer.
    """

    ask: Callable[[Sequence[str], Rows], Any]
    read: Callable[[Any], list[float]] | None

    def body(self, names: Sequence[str], rows: Rows) -> bytes:
        return json.dumps(self.ask(names, rows), separators=(",", ":")).encode()

    def difference(self, answer: bytes, expected: NDArray[np.float64]) -> float:
        """Return the largest difference of an answer from `expected`; 0 for a constant answer.

        Raises WrongAnswerError if it is not an answer.
        """
        if self.read is None:
            return 0.0
        try:
            probabilities = np.array(self.read(json.loads(answer)), dtype=np.float64)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise WrongAnswerError(
                f"not an answer ({type(error).__name__}): {answer[:200]!r}"
            ) from error
        if probabilities.shape != expected.shape or not np.isfinite(probabilities).all():
            raise WrongAnswerError(
                f"probabilities of shape {probabilities.shape} instead of {expected.shape},"
                f" or not all finite: {answer[:200]!r}"
            )
        return float(np.abs(probabilities - expected).max())


class WrongAnswerError(Exception):
    pass


def _object(names: Sequence[str], rows: Rows) -> dict[str, float]:
    (row,) = rows
    return dict(zip(names, row, strict=True))


def _inference(names: Sequence[str], rows: Rows) -> dict[str, Any]:
    return {**_tensor(names, rows), "outputs": [{"name": "fraud_probability"}]}


def _tensor(names: Sequence[str], rows: Rows) -> dict[str, Any]:
    flat = [value for row in rows for value in row]
    return {
        "inputs": [
            {"name": "predict", "shape": [len(rows), len(names)], "datatype": "FP64", "data": flat}
        ],
        "outputs": [{"name": "predict_proba"}],
    }


CONSTANT = Protocol(_object, None)
TRANSACTION = Protocol(_object, lambda answer: [answer["fraud_probability"]])
TRANSACTIONS = Protocol(
    lambda names, rows: {"transactions": [_object(names, [row]) for row in rows]},
    lambda answer: [prediction["fraud_probability"] for prediction in answer["predictions"]],
)
INSTANCES = Protocol(
    lambda _names, rows: {"instances": rows}, lambda answer: list(answer["predictions"])
)
ROWS = Protocol(lambda _names, rows: {"rows": rows}, list)
TENSOR = Protocol(_tensor, lambda answer: answer["outputs"][0]["data"][1::2])
# The product's own answer in the Open Inference Protocol.
INFERENCE = Protocol(_inference, lambda answer: answer["outputs"][0]["data"])
FRAME = Protocol(
    lambda names, rows: {"dataframe_split": {"columns": list(names), "data": rows}},
    lambda answer: [pair[1] for pair in answer["predictions"]],
)


def write_bodies(
    path: Path, protocol: Protocol, names: Sequence[str], x: NDArray[np.float64], rows: int = 1
) -> Path:
    """Write one body per line, each of `rows` rows; rows that fill no body are left out."""
    chunks = (x[start : start + rows].tolist() for start in range(0, len(x) - rows + 1, rows))
    path.write_bytes(b"\n".join(protocol.body(names, chunk) for chunk in chunks) + b"\n")
    return path
