"""The faults of a refused body, in words."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from services.inference.reading.faults import FieldFault

# A client may send card data as a field's name, so names with many digits are not shown.
_SHOWN_NAME = re.compile(r"(?!(?:.*[0-9]){5})[A-Za-z_][A-Za-z0-9_]{0,31}")
_KINDS = {
    "float": "a number",
    "int": "an integer",
    "str": "a string",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
_EXPECTED = re.compile(r"Expected `(?P<expected>[a-z]+)(?: \| null)?`, got `(?P<actual>[a-z]+)`")
_BOUND = re.compile(r"Expected `(?:float|int)` (?P<relation>>=|<=) (?P<bound>\S+)")
_RELATIONS = {">=": "must be at least", "<=": "must be at most"}


def faults_in(kind: type[msgspec.Struct], body: bytes) -> list[FieldFault]:
    """Return all reasons why the body is no valid `kind`."""
    if not body.strip():
        return [FieldFault(reason="is empty")]
    try:
        content = json.loads(body.decode(), parse_int=float, parse_constant=float)
    except UnicodeDecodeError:
        return [FieldFault(reason="is not UTF-8")]
    except json.JSONDecodeError as error:
        return [FieldFault(reason=f"is not valid JSON (character {error.pos})")]
    except RecursionError:
        return [FieldFault(reason="is nested too deeply")]
    if not isinstance(content, dict):
        return [FieldFault(reason="must be an object")]
    return list(_field_faults(kind, content)) or [
        FieldFault(reason=getattr(kind, "whole_fault", "is not accepted"))
    ]


def _field_faults(kind: type[msgspec.Struct], content: Mapping[str, Any]) -> Iterator[FieldFault]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for name, field in fields.items():
        if name not in content:
            if field.required:
                yield FieldFault(field=name, reason="is missing")
        elif reason := _refusal(content[name], field.type):
            yield FieldFault(field=name, reason=reason)
    for name in sorted(content.keys() - fields.keys()):
        shown = name if _SHOWN_NAME.fullmatch(name) else None
        yield FieldFault(
            field=shown,
            reason="is not a field of this schema"
            if shown
            else "holds a field that this schema does not have (its name is not shown)",
        )


def _refusal(value: Any, kind: Any) -> str | None:
    if isinstance(value, float):
        if not math.isfinite(value):
            return "must be a finite number"
        value = int(value) if value.is_integer() else value
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        return _in_words(str(error))
    return None


def _in_words(message: str) -> str:
    """Translate msgspec's message, which may quote what the client sent."""
    if match := _EXPECTED.match(message):
        expected = _KINDS.get(match["expected"], "of another type")
        return f"must be {expected}, not {_KINDS.get(match['actual'], 'of this type')}"
    if match := _BOUND.match(message):
        return f"{_RELATIONS[match['relation']]} {float(match['bound']):g}"
    if "matching regex" in message:
        return "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"
    if "RFC3339" in message or "timezone" in message:
        return "must be a date and time with its offset, such as 2026-01-31T12:00:00Z"
    return "must be a UUID" if "UUID" in message else "is not accepted"
