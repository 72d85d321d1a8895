"""Conversion of the spool's payloads into rows of the tables."""

from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from msgspec.structs import astuple

from fraudops.audit.dead_letters import RejectedRecord
from fraudops.audit.records import LabelRecord, Prediction, RefusalCount, decode, is_newer_kind
from fraudops.ids import timestamp_ms, uuid7

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
COLUMNS: dict[str, tuple[str, ...]] = {
    "predictions": ("timestamp", *Prediction.__struct_fields__, "features_sealed"),
    "labels": LabelRecord.__struct_fields__,
    "refusals": ("at", *RefusalCount.__struct_fields__),
}
# `unnest` of the sink needs the type that each column has in PostgreSQL.
TYPES = {
    **dict.fromkeys(("id", "prediction_id"), "uuid"),
    **dict.fromkeys(("timestamp", "labelled_at", "received_at", "at"), "timestamptz"),
    **dict.fromkeys(
        ("fraud_probability", "threshold", "latency_ms", "challenger_probability"), "float8"
    ),
    **dict.fromkeys(("prediction", "label"), "int2"),
    **dict.fromkeys(
        (
            *("model_name", "model_version", "model_digest", "challenger_version", "request_id"),
            *("transaction_id", "entity_key", "pod", "source", "client"),
            *("endpoint", "field", "reason"),
        ),
        "text",
    ),
    "rows": "int4",
    "features": "jsonb",
    "features_sealed": "bytea",
}
# A table, and the model version of a prediction.
Kind = tuple[str, Any]
_VERSION = COLUMNS["predictions"].index("model_version")
UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, TypeError, RecursionError)
_json = msgspec.json.Encoder()


class Row(NamedTuple):
    """One row, with its values in the order of COLUMNS[table].

    `day` is the day of the partition that holds a prediction; other tables have no partitions.
    """

    table: str
    values: tuple[Any, ...]
    day: date | None
    payload: bytes

    @property
    def kind(self) -> Kind:
        """The kind of the row. A constraint may refuse the rows of one kind only."""
        return self.table, self.values[_VERSION] if self.table == "predictions" else None


class DecodedGroup(NamedTuple):
    """The rows of a group of payloads, and the payloads that are none.

    `rejected` payloads cannot be decoded. `unknown` ones have a kind that this release does not
    know.
    """

    rows: list[Row]
    rejected: list[RejectedRecord]
    unknown: list[bytes]


def to_rows(payloads: list[bytes]) -> DecodedGroup:
    """Convert payloads into rows of the tables."""
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
    return DecodedGroup(rows, rejected, unknown)


def answered_at(payload: bytes) -> datetime | None:
    """Return when the prediction was answered, or None if the payload is not a prediction."""
    try:
        record = decode(payload)
        return (
            EPOCH + timedelta(milliseconds=timestamp_ms(record.id))
            if isinstance(record, Prediction)
            else None
        )
    except UNREADABLE:
        return None


def copy_of(row: Row) -> Row:
    """Return the row with a new id and the present time, to try it in a transaction."""
    identifier = str(uuid4()) if row.table == "labels" else uuid7()
    key: dict[str, Any] = {"id": identifier}
    day = None
    if row.table != "labels":
        key["timestamp"] = key["at"] = EPOCH + timedelta(milliseconds=timestamp_ms(identifier))
        day = key["timestamp"].date() if row.table == "predictions" else None
    named = zip(COLUMNS[row.table], row.values, strict=True)
    return Row(row.table, tuple(key.get(name, value) for name, value in named), day, b"")


def _row(payload: bytes) -> Row:
    record = decode(payload)
    if isinstance(record, LabelRecord):
        return Row("labels", astuple(record), None, payload)
    moment = EPOCH + timedelta(milliseconds=timestamp_ms(record.id))
    if isinstance(record, RefusalCount):
        return Row("refusals", (moment, *astuple(record)), None, payload)
    identifier, features, *rest = astuple(record)
    # Encrypted and hashed features are bytes; readable ones are a mapping.
    plain, sealed = (
        (None, features) if isinstance(features, bytes) else (_json.encode(features).decode(), None)
    )
    return Row("predictions", (moment, identifier, plain, *rest, sealed), moment.date(), payload)
