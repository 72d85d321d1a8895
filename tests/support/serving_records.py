"""Serving records for tests of the pod: what serves, and what a rollout has reserved."""

from typing import Any

import msgspec

from fraudops.promotion.serving_record import (
    Reservation,
    ServingEntry,
    ServingRecord,
    ServingTarget,
)


def record(
    current: ServingTarget | None, reserved: ServingTarget | None = None, alias_epoch: int = 0
) -> ServingRecord:
    """Return a record at `current`, in which a rollout has reserved `reserved`."""
    return ServingRecord(
        current=ServingEntry(**_fields(current)) if current else None,
        reserved=Reservation(**_fields(reserved), strategy="rollout") if reserved else None,
        alias_epoch=alias_epoch,
    )


def _fields(target: ServingTarget) -> dict[str, Any]:
    act = {"schema_fingerprint": "f", "by": "a request", "act": "promote", "at": "then"}
    return msgspec.structs.asdict(target) | act
