"""A client's answer log: what it was told, to hold against the audit."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
import numpy as np

from fraudops.audit.reconciliation import Answers, binary, ids_of, moments
from fraudops.errors import DataError


class LoggedAnswer(msgspec.Struct):
    """An answer of /predict, or one of /predict/batch."""

    prediction_id: str | None = None
    predictions: list["LoggedAnswer"] | None = None


_decoder = msgspec.json.Decoder(LoggedAnswer)


def read_answers(lines: Iterable[bytes]) -> Answers:
    """From lines of one prediction_id, or of one answer as JSON.

    Empty lines are passed over. Raises DataError naming the line, never its content.
    """
    found = bytearray()
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            try:
                for identifier in _identifiers(text):
                    found += binary(identifier)
            except (msgspec.MsgspecError, ValueError):
                raise DataError(
                    f"line {number} of the answers is neither a prediction_id nor an answer with one"
                ) from None
    if not found:
        raise DataError(
            "there is no answer in the file: give a prediction_id a line, or answers as JSON lines"
        )
    return Answers(len(found) // 16, ids_of([bytes(found)]))


def _identifiers(text: bytes) -> list[str]:
    if not text.startswith(b"{"):
        return [text.decode("ascii")]
    answer = _decoder.decode(text)
    each = [answer] if answer.predictions is None else answer.predictions
    return [str(one.prediction_id) for one in each]


def window_of(answers: Answers) -> tuple[datetime, datetime]:
    """From the first answer to just behind the last."""
    first, last = moments(answers.ids[[0, len(answers.ids) - 1]].astype(np.bytes_))
    return first, last + timedelta(milliseconds=1)
