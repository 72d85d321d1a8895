"""msgspec's messages in the words of the API, without the values that they may quote."""

import re

from services.inference.reading.faults import FaultCode
from services.inference.reading.identifiers import IDENTIFIER

Worded = tuple[str, FaultCode]

_KINDS = {
    "float": "a number",
    "int": "an integer",
    "str": "a string",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
    "datetime": "a date and time",
    "uuid": "a UUID",
}
_EXPECTED = re.compile(r"Expected `(?P<expected>[a-z]+)(?: \| null)?`, got `(?P<actual>[a-z]+)`")
_BOUND = re.compile(r"Expected `(?:float|int)` (?P<relation>>=|<=|>|<) (?P<bound>\S+)")
_RELATIONS: dict[str, Worded] = {
    ">=": ("must be at least", "below_minimum"),
    "<=": ("must be at most", "above_maximum"),
    ">": ("must be above", "below_minimum"),
    "<": ("must be below", "above_maximum"),
}
NOT_FINITE: Worded = ("must be a finite number", "not_finite")
NOT_WHOLE: Worded = ("must be a whole number, without a decimal point", "wrong_type")


def in_words(message: str) -> Worded:
    """Return the reason and the code for a message of msgspec about one value."""
    if match := _EXPECTED.match(message):
        expected = _KINDS.get(match["expected"], "of another type")
        return (
            f"must be {expected}, not {_KINDS.get(match['actual'], 'of this type')}",
            "wrong_type",
        )
    if match := _BOUND.match(message):
        relation, code = _RELATIONS[match["relation"]]
        return f"{relation} {float(match['bound']):g}", code
    if "out of range" in message:
        return NOT_FINITE
    if IDENTIFIER in message:
        return "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -", "bad_id"
    if "matching regex" in message:
        return "does not have the form of this field", "other"
    if "RFC3339" in message or "timezone" in message:
        return (
            "must be a date and time with its offset, such as 2026-01-31T12:00:00Z",
            "bad_time",
        )
    return ("must be a UUID", "bad_id") if "UUID" in message else ("is not accepted", "other")
