"""Audit records with chosen fields, and a spool filled with them."""

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fraudops.audit.records import Prediction, Record, RefusalCount, encode
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions


def id_at(moment: datetime) -> str:
    """Return a UUIDv7 of this moment."""
    milliseconds = int(moment.timestamp() * 1000)
    # RFC 9562: 48 bits of milliseconds, version 7, 12 random bits, variant, 62 random bits.
    digits = f"{milliseconds:012x}7{secrets.token_hex(2)[:3]}8{secrets.token_hex(8)[:15]}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def prediction(moment: datetime | None = None, **changes: Any) -> Prediction:
    fields: dict[str, Any] = {
        "id": id_at(moment or datetime.now(UTC)),
        "features": {"V1": -1.25, "Amount": 12.5},
        "fraud_probability": 0.125,
        "prediction": 0,
        "threshold": 0.5,
        "model_name": "credit-fraud",
        "model_version": "3",
        "model_digest": "d" * 64,
        "latency_ms": 1.5,
        "pod": "local",
    }
    return Prediction(**fields | changes)


def refusals(moment: datetime | None = None, **changes: Any) -> RefusalCount:
    fields: dict[str, Any] = {
        "id": id_at(moment or datetime.now(UTC)),
        "pod": "local",
        "endpoint": "/predict",
        "field": "Amount",
        "reason": "below_minimum",
        "rows": 3,
        "model_name": "credit-fraud",
        "model_version": "3",
    }
    return RefusalCount(**fields | changes)


def fill(folder: Path, records: Iterable[Record], writer: str = "worker-1") -> list[str]:
    """Spool the records as a worker that then ends, and return their ids."""
    spool = SpoolWriter(folder, writer, SpoolOptions())
    ids = []
    for record in records:
        spool.append(encode(record))
        ids.append(record.id)
    spool.close()
    return ids


def group(rows: int, **changes: Any) -> list[bytes]:
    """Return the payloads of so many predictions."""
    return [encode(prediction(**changes)) for _ in range(rows)]
