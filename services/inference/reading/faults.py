"""Faults of a request body."""

import re
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
# All that a decoder or a struct may raise about its input. msgspec's errors and UnicodeDecodeError
# are ValueErrors.
REFUSALS = (ValueError, OverflowError, RecursionError, TypeError)

# A client may send card data as a field's name, so names with many digits are not shown. The search
# for digits takes 50 ms in a name of 64 KiB, so a longer name is not searched.
_SHOWN_LENGTH = 32
_SHOWN_NAME = re.compile(r"(?!(?:.*[0-9]){5})[A-Za-z_][A-Za-z0-9_]*")


class FieldFault(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One fault of a body: the row's index (in a list), the field, the reason, and its code."""

    index: int | None = None
    field: str | None = None
    reason: str
    code: FaultCode | None = None


class FaultError(ValueError):
    """A fault that ends the reading of a value.

    A struct may raise it in `__post_init__`: it is then the cause of msgspec's error.
    """

    def __init__(self, fault: FieldFault) -> None:
        self.fault = fault
        super().__init__(fault.reason)


class InvalidBodyError(FraudopsError):
    """A refused body; `faults` holds its first REPORTED_FAULTS faults."""

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        self.faults = tuple(faults[:REPORTED_FAULTS])
        first = self.faults[0]
        where = "" if first.index is None else f"row {first.index}: "
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{where}{first.field or 'the body'} {first.reason}{more}")


def not_json(place: int) -> FieldFault:
    """Return the fault of a body that is no JSON from its byte `place` on."""
    return FieldFault(reason=f"is not valid JSON (byte {place})", code="not_json")


def too_large(limit_bytes: int) -> FieldFault:
    return FieldFault(reason=f"is larger than {limit_bytes >> 10} KiB", code="too_large")


def given_twice(field: str | None) -> FieldFault:
    """Return the fault of a repeated key; `field` is None if the name is not known to be safe."""
    return FieldFault(
        field=field,
        reason="must be given once" if field else "holds a field twice (its name is not shown)",
        code="repeated_key",
    )


def shown_name(name: str) -> str | None:
    """Return a client's name for a field, or None if it could be data."""
    return name if len(name) <= _SHOWN_LENGTH and _SHOWN_NAME.fullmatch(name) else None


def unknown_field(name: str) -> FieldFault:
    shown = shown_name(name)
    return FieldFault(
        field=shown,
        reason="is not a field of this schema"
        if shown
        else "holds a field that this schema does not have (its name is not shown)",
        code="unknown_field",
    )
