"""From what the spool carries to rows of the tables. Predictions become tuples of PostgreSQL's binary COPY (https://www.postgresql.org/docs/current/sql-copy.html)
right here: row by row through asyncpg's codecs costs three times as much, and there are thousands a second."""

import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import astuple

from fraudops.audit.aside import Rejected
from fraudops.audit.records import Label, Prediction, decode
from fraudops.ids import timestamp_ms

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Timestamps are microseconds since 2000-01-01.
EPOCH_MS = 946_684_800_000
DAY_MS = 86_400_000
PREDICTION_COLUMNS = (
    *("timestamp", "id", "fraud_probability", "latency_ms", "prediction"),
    *("threshold", "model_name", "model_version", "model_digest", "pod"),
    *("features", "features_sealed", "challenger_version", "challenger_probability", "request_id", "transaction_id", "entity_key"),
)
COLUMNS: dict[str, tuple[str, ...]] = {"predictions": PREDICTION_COLUMNS, "labels": Label.__struct_fields__}
COPY_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
COPY_TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
UNREADABLE = (msgspec.MsgspecError, ValueError, OverflowError, TypeError, RecursionError)
_fixed = struct.Struct(">hiqi16sididih").pack
_double = struct.Struct(">id").pack
_length = struct.Struct(">i").pack
_json = msgspec.json.Encoder().encode


class Row(NamedTuple):
    """A prediction is ready for COPY, a label has its values in the order of COLUMNS; `day` is the partition that a prediction belongs to."""

    table: str
    values: Any
    day: date | None
    payload: bytes


def to_rows(payloads: Sequence[bytes]) -> tuple[list[Row], list[Rejected]]:
    """The rows, and the payloads that are none."""
    rows, rejected = [], []
    for payload in payloads:
        try:
            rows.append(_row(payload))
        except (*UNREADABLE, struct.error) as error:
            rejected.append(Rejected(payload, f"cannot be decoded: {type(error).__name__}"))
    return rows, rejected


def answered_at(payload: bytes) -> datetime | None:
    """When the prediction was answered; None for what is no prediction."""
    try:
        record = decode(payload)
        return EPOCH + timedelta(milliseconds=timestamp_ms(record.id)) if isinstance(record, Prediction) else None
    except UNREADABLE:
        return None


def _row(payload: bytes) -> Row:
    record = decode(payload)
    if isinstance(record, Label):
        return Row("labels", astuple(record), None, payload)
    milliseconds = timestamp_ms(record.id)
    return Row("predictions", _copied(record, milliseconds), _day(milliseconds // DAY_MS), payload)


def _copied(record: Prediction, milliseconds: int) -> bytes:
    identifier = bytes.fromhex(record.id.replace("-", ""))
    if len(identifier) != 16:
        raise ValueError("not a canonical UUIDv7")
    fixed = _fixed(
        *(len(PREDICTION_COLUMNS), 8, (milliseconds - EPOCH_MS) * 1000, 16, identifier),
        *(8, record.fraud_probability, 8, record.latency_ms, 2, record.prediction),
    )
    # Sealed and hashed features come as bytes, readable ones as a mapping. jsonb is its version, 1, and text.
    features = record.features
    kept = NULL + _bytes(features) if isinstance(features, bytes) else _bytes(b"\x01" + _json(features)) + NULL
    challenged = NULL if record.challenger_probability is None else _double(8, record.challenger_probability)
    return b"".join(
        (
            fixed,
            _model(record.threshold, record.model_name, record.model_version, record.model_digest, record.pod),
            kept,
            _text(record.challenger_version),
            challenged,
            _text(record.request_id),
            _text(record.transaction_id),
            _text(record.entity_key),
        )
    )


@lru_cache(64)
def _model(threshold: float, *texts: str) -> bytes:
    """What hardly changes from row to row."""
    return _double(8, threshold) + b"".join(map(_text, texts))


def _text(value: str | None) -> bytes:
    return NULL if value is None else _bytes(value.encode())


def _bytes(value: bytes) -> bytes:
    return _length(len(value)) + value


@lru_cache(8)
def _day(number: int) -> date:
    return (EPOCH + timedelta(days=number)).date()
