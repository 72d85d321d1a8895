"""From what the spool carries to rows of the tables."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import astuple

from fraudops.audit.dead_letters import RejectedRecord
from fraudops.audit.records import LabelRecord, Prediction, decode, is_newer_kind
from fraudops.ids import timestamp_ms

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS: dict[str, tuple[str, ...]] = {
    "predictions": ("timestamp", *Prediction.__struct_fields__, "features_sealed"),
    "labels": LabelRecord.__struct_fields__,
}
UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, TypeError, RecursionError)
_json = msgspec.json.Encoder()


class Row(NamedTuple):
    """Values in the order of COLUMNS[table]; `day` is the partition a prediction belongs to."""

    table: str
    values: tuple[Any, ...]
    day: date | None
    payload: bytes


class Sorted(NamedTuple):
    """The rows of a group, what cannot become a row, and records of kinds unknown here."""

    rows: list[Row]
    rejected: list[RejectedRecord]
    unknown: list[bytes]


def to_rows(payloads: list[bytes]) -> Sorted:
    """Turn payloads into rows of the tables."""
    rows, rejected, unknown = list[Row](), list[RejectedRecord](), list[bytes]()
    for payload in payloads:
        try:
            rows.append(_row(payload))
        except UNREADABLE as error:
            if is_newer_kind(payload):
                unknown.append(payload)
            else:
                rejected.append(
                    RejectedRecord(payload, f"cannot be decoded: {type(error).__name__}")
                )
    return Sorted(rows, rejected, unknown)


def answered_at(payload: bytes) -> datetime | None:
    """When the prediction was answered; None for what is no prediction."""
    try:
        record = decode(payload)
        return (
            EPOCH + timedelta(milliseconds=timestamp_ms(record.id))
            if isinstance(record, Prediction)
            else None
        )
    except UNREADABLE:
        return None


def _row(payload: bytes) -> Row:
    record = decode(payload)
    if isinstance(record, LabelRecord):
        return Row("labels", astuple(record), None, payload)
    moment = EPOCH + timedelta(milliseconds=timestamp_ms(record.id))
    identifier, features, *rest = astuple(record)
    # Sealed and hashed features come as bytes, readable ones as a mapping.
    plain, sealed = (
        (None, features) if isinstance(features, bytes) else (_json.encode(features).decode(), None)
    )
    return Row("predictions", (moment, identifier, plain, *rest, sealed), moment.date(), payload)
