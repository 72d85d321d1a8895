"""The members of a JSON object, found by regular expressions, without a value for each.

msgspec keeps the last of two equal keys and does not report the first. So repeated keys are found
here. Every pattern is possessive: its time grows with the length of what it reads, for any bytes.
"""

import re

import msgspec

from services.inference.reading.faults import FaultError, FieldFault

WHITE = rb"[ \t\r\n]*+"
STRING = rb'"(?:[^"\\]++|\\.)*+"'
SCALAR = rb'[^\s,:{}\[\]"]++'
MOST_MEMBERS, MOST_LEVELS, MOST_CONTAINERS = 1000, 64, 1000
TOO_DEEP = FieldFault(reason="is nested too deeply", code="too_deep")
_TOO_MANY = FieldFault(
    reason=f"has more than {MOST_CONTAINERS} lists and objects inside", code="too_large"
)

_MEMBER = re.compile(
    rb"%b,?+%b(%b)%b:%b(%b|%b|(?=[{\[]))" % (WHITE, WHITE, STRING, WHITE, WHITE, STRING, SCALAR),
    re.DOTALL,
)
# All strings in a row, with what is between them, are one token: Python looks at few tokens. A
# string without its end is in it too: its quotes would each start a search to the end.
_BRACKET = re.compile(rb'[\[\]{}]|(?:"(?:[^"\\]++|\\.)*+"?+[^"\[\]{}]*+)++', re.DOTALL)
_name = msgspec.json.Decoder(str)


def members(body: bytes, most: int = MOST_MEMBERS) -> list[tuple[str, bytes]]:
    """Return the names and values of one object; `body` must be valid JSON.

    Equal names are all there. A value is still JSON, or NaN or Infinity. Raises FaultError above
    `most` members, MOST_CONTAINERS or MOST_LEVELS, and msgspec.MsgspecError for a name that is no
    string.
    """
    if body.count(b"[") + body.count(b"{") > MOST_CONTAINERS + 1:
        raise FaultError(_TOO_MANY)
    found: list[tuple[str, bytes]] = []
    position = body.index(b"{") + 1
    while member := _MEMBER.match(body, position):
        name, value = member.groups()
        position = member.end()
        if not value:
            start = position
            position = end_of_container(body, start, len(body)) or len(body)
            value = body[start:position]
        if len(found) == most:
            raise FaultError(FieldFault(reason=f"has more than {most} fields", code="too_large"))
        found.append((_name.decode(name), value))
    return found


def repeated_name(body: bytes) -> str | None:
    """Return a name that the object gives twice, or None; raises as `members` does."""
    seen = set[str]()
    for name, _ in members(body):
        if name in seen:
            return name
        seen.add(name)
    return None


def end_of_container(body: bytes, start: int, limit: int) -> int | None:
    """Return the end of the list or object at `start`, or None if it is not before `limit`.

    Raises FaultError if it has more than MOST_LEVELS levels or MOST_CONTAINERS inside.
    """
    levels = containers = 0
    for token in _BRACKET.finditer(body, start, limit):
        first = body[token.start()]
        if first in b"{[":
            levels += 1
            containers += 1
            if levels > MOST_LEVELS:
                raise FaultError(TOO_DEEP)
            if containers > MOST_CONTAINERS + 1:
                raise FaultError(_TOO_MANY)
        elif first in b"}]":
            levels -= 1
            if not levels:
                return token.end()
    return None
