"""Faults of a request body."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from fraudops.errors import FraudopsError

REPORTED_FAULTS = 100
FaultCode = Literal[
    "missing",
    "unknown_field",
    "wrong_type",
    "not_finite",
    "below_minimum",
    "above_maximum",
    "bad_id",
    "bad_time",
    "future",
    "repeated_key",
    "not_json",
    "not_utf8",
    "empty",
    "too_deep",
    "too_large",
    "too_many_rows",
    "foreign_form",
    "other",
]


class FieldFault(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One fault of a body: the row's index (in a list), the field, the reason, and its code."""

    index: int | None = None
    field: str | None = None
    reason: str
    code: FaultCode | None = None


class InvalidBodyError(FraudopsError):
    """A refused body; `faults` holds its first REPORTED_FAULTS faults."""

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        self.faults = tuple(faults[:REPORTED_FAULTS])
        first = self.faults[0]
        where = "" if first.index is None else f"row {first.index}: "
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{where}{first.field or 'the body'} {first.reason}{more}")
