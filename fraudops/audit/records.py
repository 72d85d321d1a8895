"""The records of the spool: predictions and labels as msgpack.

New fields are only appended, with defaults, so that spools of older releases stay readable.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import msgspec

LABEL_NAMESPACE = UUID("6f7b2f0e-6d0a-5f5e-9b57-0d6f9a1c7a11")


class Prediction(
    msgspec.Struct, array_like=True, tag="prediction", frozen=True, kw_only=True, gc=False
):
    """One answered transaction.

    `id` is a UUIDv7; its millisecond is the timestamp of the row. `features` maps names to floats,
    or is bytes if they are encrypted or hashed (fraudops.feature_encryption).
    """

    id: str
    features: Any
    fraud_probability: float
    prediction: int
    threshold: float
    model_name: str
    model_version: str
    model_digest: str
    latency_ms: float
    pod: str
    challenger_version: str | None = None
    challenger_probability: float | None = None
    request_id: str | None = None
    transaction_id: str | None = None
    entity_key: str | None = None


class LabelRecord(msgspec.Struct, array_like=True, tag="label", frozen=True, kw_only=True):
    """The true class of a transaction, which is named by prediction_id or transaction_id.

    `id` is derived from the content, so that the same label sent again is the same row.
    """

    id: str
    label: int
    labelled_at: datetime
    source: str
    received_at: datetime
    prediction_id: str | None = None
    transaction_id: str | None = None


def new_label(
    label: int,
    labelled_at: datetime,
    source: str,
    *,
    prediction_id: str | None = None,
    transaction_id: str | None = None,
) -> LabelRecord:
    """Return a label that was received now. `labelled_at` needs a time zone; it is kept in UTC."""
    moment = labelled_at.astimezone(UTC)
    content = msgspec.json.encode([prediction_id, transaction_id, label, moment, source]).decode()
    return LabelRecord(
        id=str(uuid5(LABEL_NAMESPACE, content)),
        label=label,
        labelled_at=moment,
        source=source,
        received_at=datetime.now(UTC),
        prediction_id=prediction_id,
        transaction_id=transaction_id,
    )


Record = Prediction | LabelRecord
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


KINDS = frozenset({"prediction", "label"})


def is_newer_kind(data: bytes) -> bool:
    """Return whether the bytes are a record of a kind that only a newer release knows."""
    try:
        content = msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
    if not isinstance(content, list) or not content or not isinstance(content[0], str):
        return False
    return content[0] not in KINDS


def encode(record: Record) -> bytes:
    return _encoder.encode(record)


def decode(data: bytes) -> Record:
    """Decode a record. Raises msgspec.MsgspecError when the bytes are not a record."""
    record: Record = _decoder.decode(data)
    return record
