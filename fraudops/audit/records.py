"""The records of the spool as msgpack: predictions, labels, counts of refused transactions.

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
    # The authenticated client that asked; None if the service does not authenticate clients.
    client: str | None = None


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
    # The authenticated client that sent it, or the import that read it.
    client: str | None = None


class RefusalCount(msgspec.Struct, array_like=True, tag="refusals", frozen=True, kw_only=True):
    """The number of transactions that a worker refused for one reason since its last record.

    `id` is a UUIDv7; its millisecond is the end of the period. `endpoint` is a metric label such as
    `/predict`. `field` is a name of the served schema, `(body)` or `(other)`, and `reason` the code
    of a fault. Neither holds anything that a client sent. `rows` is at least 1. `model_version` is
    None if no model served.
    """

    id: str
    pod: str
    endpoint: str
    field: str
    reason: str
    rows: int
    model_name: str
    model_version: str | None = None


def new_label(
    label: int,
    labelled_at: datetime,
    source: str,
    *,
    prediction_id: str | None = None,
    transaction_id: str | None = None,
    client: str | None = None,
    received_at: datetime | None = None,
) -> LabelRecord:
    """Return a label that was received at `received_at`, or now.

    Both times need a time zone; they are kept in UTC. The same label from another client, or at
    another time, has the same id.
    """
    moment = labelled_at.astimezone(UTC)
    content = msgspec.json.encode([prediction_id, transaction_id, label, moment, source]).decode()
    return LabelRecord(
        id=str(uuid5(LABEL_NAMESPACE, content)),
        label=label,
        labelled_at=moment,
        source=source,
        received_at=received_at.astimezone(UTC) if received_at else datetime.now(UTC),
        prediction_id=prediction_id,
        transaction_id=transaction_id,
        client=client,
    )


Record = Prediction | LabelRecord | RefusalCount
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


KINDS = frozenset({"prediction", "label", "refusals"})


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
