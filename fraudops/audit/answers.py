"""A client's answer log: the answers that it received, to compare with the audit."""

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec
import numpy as np

from fraudops.audit.prediction_ids import id_array, id_bytes, timestamps
from fraudops.audit.reconciliation import Answers
from fraudops.errors import DataError


class LoggedAnswer(msgspec.Struct):
    """An answer of /predict, or one of /predict/batch."""

    prediction_id: str | None = None
    predictions: list["LoggedAnswer"] | None = None


_decoder = msgspec.json.Decoder(LoggedAnswer)


def read_answers(lines: Iterable[bytes]) -> Answers:
    """Read lines that hold one prediction_id, or one answer as JSON.

    Empty lines are skipped. Raises DataError, which names the line and never quotes it.
    """
    ids = bytearray()
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            try:
                for identifier in _identifiers(text):
                    ids += id_bytes(identifier)
            except (msgspec.MsgspecError, ValueError):
                raise DataError(
                    f"line {number} of the answers is neither a prediction_id nor an answer "
                    "with one"
                ) from None
    if not ids:
        raise DataError(
            "there is no answer in the file: write one prediction_id or one answer as JSON on "
            "each line"
        )
    return Answers(len(ids) // 16, id_array([bytes(ids)]))


def _identifiers(text: bytes) -> list[str]:
    if not text.startswith(b"{"):
        return [text.decode("ascii")]
    answer = _decoder.decode(text)
    # An answer of /predict/batch holds a list of answers.
    answers = [answer] if answer.predictions is None else answer.predictions
    return [str(one.prediction_id) for one in answers]


def window_of(answers: Answers) -> tuple[datetime, datetime]:
    """Return the window [first answer, last answer + 1 ms), which holds all answers."""
    first, last = timestamps(answers.ids[[0, len(answers.ids) - 1]].astype(np.bytes_))
    return first, last + timedelta(milliseconds=1)
