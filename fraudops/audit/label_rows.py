"""Convert the rows of a file into labels, by the rules of `/feedback`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from fraudops.audit.label_csv import CLASSES
from fraudops.audit.label_files import FileRow
from fraudops.audit.records import LabelRecord, new_label

# The system that dates labels may have a clock that is fast by this much.
SKEW = timedelta(seconds=300)
FIRST = datetime(1970, 1, 1, tzinfo=UTC)
IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# PostgreSQL writes a zone as `+01`, which msgspec does not read.
HOURS = re.compile(r"(?<=\d[+-]\d\d)$")
TOO_FINE = re.compile(r"[.,]\d{7}")


class LabelRow(NamedTuple):
    """A row of a file: its label, or the reason why it has none."""

    row: int
    line: int | None
    label: LabelRecord | None
    fault: str = ""

    @property
    def place(self) -> str:
        return f"row {self.row}" if self.line is None else f"line {self.line}"


@dataclass(frozen=True)
class LabelParser:
    """Makes labels that arrived at `received_at` from `client`.

    `source` is that of every label, or None if the file has a column of sources. A label that is
    dated more than SKEW after `now` is refused.
    """

    source: str | None
    now: datetime
    received_at: datetime
    client: str

    def parse(self, row: FileRow) -> LabelRow:
        """Return the label of a row, or the fault of one that is no label."""
        if row.fault:
            return LabelRow(row.row, row.line, None, row.fault)
        try:
            return LabelRow(row.row, row.line, self._label(row.cells))
        except ValueError as error:
            return LabelRow(row.row, row.line, None, str(error))

    def _label(self, cells: Mapping[str, Any]) -> LabelRecord:
        prediction, transaction = (cells.get(name) for name in ("prediction_id", "transaction_id"))
        if _is_missing(prediction) == _is_missing(transaction):
            raise ValueError("give either prediction_id or transaction_id, and not both")
        source = self.source if self.source is not None else cells.get("source")
        return new_label(
            _checked(_class, cells.get("label"), "label must be 0 or 1"),
            self._moment(cells.get("labelled_at")),
            _identifier(source, "source"),
            prediction_id=None if _is_missing(prediction) else _uuid(prediction),
            transaction_id=(
                None if _is_missing(transaction) else _identifier(transaction, "transaction_id")
            ),
            client=self.client,
            received_at=self.received_at,
        )

    def _moment(self, value: Any) -> datetime:
        wrong = "labelled_at must be an ISO time with a time zone, such as 2026-11-02T12:00:00Z"
        moment: datetime = _checked(_utc, value, wrong)
        if moment < FIRST:
            raise ValueError("labelled_at lies before 1970")
        if moment > self.now + SKEW:
            raise ValueError("labelled_at lies in the future")
        return moment


def _is_missing(value: Any) -> bool:
    return value is None or value == ""


def _checked(convert: Callable[[Any], Any], value: Any, wrong: str) -> Any:
    """Convert a value. Raises ValueError(wrong), which does not quote the value."""
    try:
        return convert(value)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError):
        raise ValueError(wrong) from None


def _class(value: Any) -> int:
    if isinstance(value, str):
        return CLASSES[value.lower()]
    # Numbers of every type of Parquet, and booleans.
    return {0: 0, 1: 1}[value]


def _utc(value: Any) -> datetime:
    moment = _parsed(value) if isinstance(value, str) else value
    if moment.tzinfo is None:
        raise ValueError
    converted: datetime = moment.astimezone(UTC)
    return converted


def _parsed(text: str) -> datetime:
    try:
        # As `/feedback` reads it: a seventh digit of a second is rounded, so that the same label
        # gets the same id.
        return msgspec.convert(HOURS.sub(":00", text), datetime)
    except msgspec.ValidationError:
        if TOO_FINE.search(text):
            # Python would drop the digits after the sixth.
            raise
        return datetime.fromisoformat(text)


def _uuid(value: Any) -> str:
    # The label's id is a hash of its content, so two spellings would make two labels.
    return str(_checked(UUID, str(value), "prediction_id must be a UUID"))


def _identifier(value: Any, name: str) -> str:
    text = str(value) if isinstance(value, str | int) else ""
    if not IDENTIFIER.fullmatch(text):
        raise ValueError(f"{name} must be 1 to 64 letters, digits or . _ : -")
    return text
