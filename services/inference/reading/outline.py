"""A JSON body with long lists, read in steps of bounded work.

A decoder reads 16 MiB in one step, and keeps the last of two equal keys. So the long lists are cut
out first, and each is decoded in small pieces. The rest is small. Other requests run
between the steps.
"""

import re
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import msgspec

from services.inference.reading.faults import (
    REFUSALS,
    FaultError,
    FieldFault,
    not_json,
    shown_name,
    too_large,
)
from services.inference.reading.members import MOST_LEVELS, STRING, TOO_DEEP, WHITE
from services.inference.reading.rows import BATCH_ROWS
from services.inference.reading.transactions import BOM
from services.inference.reading.turns import LIST, NUMBER_BYTE, TOKEN, TurnBudget

# Of all that is in no long list; and of a list that is scanned in one step.
OUTLINE_BYTES = STEP_BYTES = 64 << 10
# Of the values that are decoded in one step. The decoder takes 10 µs for a number such as 1e300.
PIECE_BYTES = 8 << 10
# The values of one row that stands in brackets of its own.
ROW_BYTES = 4 * STEP_BYTES

_OBJECT = FieldFault(reason="holds an object in a list of values", code="wrong_type")
TOO_MANY_ROWS = FieldFault(reason=f"must hold at most {BATCH_ROWS} rows", code="too_many_rows")

_TOKEN = re.compile(rb'(%b)(%b:%b)?+|[\[\]{}"]' % (STRING, WHITE, WHITE), re.DOTALL)
# A string without its end is one token too. It lacks the group.
_LIST_TOKEN = re.compile(rb'[\[\]{}]|"(?:[^"\\]++|\\.)*+("?+)', re.DOTALL)
_WHITE = re.compile(WHITE)
_COMMA = re.compile(rb"%b,%b" % (WHITE, WHITE))
_name = msgspec.json.Decoder(str)


class LongList(NamedTuple):
    """A list in a body: the places after and before its brackets.

    `groups` are the places of rows that are decoded together: a row is a list inside. A group has
    at most PIECE_BYTES, or a single row. Without a group the list is flat.
    """

    start: int
    end: int
    groups: list[tuple[int, int]]


class Outline(NamedTuple):
    """A body without its long lists.

    `json` has `[k]` in the place of the list `lists[k]`, and no byte order mark. `cuts` are the
    places behind each of them, in `json` and in the body. `names` are the keys of the body's
    object.
    """

    json: bytes
    lists: list[LongList]
    cuts: list[tuple[int, int]]
    names: set[str]

    def place(self, place: int) -> int:
        """Return the place in the body of a place in `json`."""
        inside, outside = [cut for cut in self.cuts if cut[0] <= place][-1]
        return outside + place - inside


async def outline(body: bytes, cut: frozenset[str], most_lists: int, turn: TurnBudget) -> Outline:
    """Cut the lists out that are values of the keys in `cut`.

    The outline may still be no JSON. Raises FaultError for a repeated key, for an outline of more
    than OUTLINE_BYTES, for more than `most_lists` lists, for too many levels, and for a list
    without an end.
    """
    # The keys of each object that is open, and None for each list.
    levels: list[set[str] | None] = []
    at = copied = len(BOM) if body.startswith(BOM) else 0
    found = Outline(b"", [], [(0, copied)], set())
    parts: list[bytes] = []
    size = 0
    while token := _TOKEN.search(body, at, copied + OUTLINE_BYTES - size):
        turn.left -= TOKEN
        if turn.left < 0:
            await turn.renew()
        at = token.end()
        text, colon = token.groups()
        sign = body[token.start() : token.start() + 1]
        if colon is not None and levels and (names := levels[-1]) is not None:
            name = _decoded(text, token.start())
            if name in names:
                raise FaultError(_given_twice(name))
            names.add(name)
            if name in cut and body[at : at + 1] == b"[":
                if len(found.lists) == most_lists:
                    raise FaultError(_too_many_lists(most_lists))
                long = await _long_list(body, at, turn)
                parts.append(b"%b[%d]" % (body[copied:at], len(found.lists)))
                size += len(parts[-1])
                at = copied = long.end + 1
                found.lists.append(long)
                found.cuts.append((size, copied))
        elif text is None and sign == b'"':
            # Its end is not within the limit.
            break
        elif sign in b"{[":
            levels.append(None if sign == b"[" else set() if levels else found.names)
            if len(levels) > MOST_LEVELS:
                raise FaultError(TOO_DEEP)
        elif sign in b"}]" and levels:
            levels.pop()
    if copied + OUTLINE_BYTES - size < len(body):
        raise FaultError(too_large(OUTLINE_BYTES))
    return found._replace(json=b"".join([*parts, body[copied:]]))


async def _long_list(body: bytes, start: int, turn: TurnBudget) -> LongList:
    """Find the end of the list at `start`. Raises FaultError."""
    groups: list[tuple[int, int]] = []
    row, rows, strings, at = None, 0, 0, start + 1
    while at < len(body):
        following = limit = min(at + STEP_BYTES, len(body))
        for token in _LIST_TOKEN.finditer(body, at, limit):
            turn.left -= TOKEN
            if turn.left < 0:
                await turn.renew()
            place, sign = token.start(), body[token.start() : token.start() + 1]
            if sign == b'"':
                if not token[1]:
                    # The string goes on in the next step, which begins with it.
                    following = _continued(at, place, limit, len(body))
                    break
                strings += 1
            elif sign == b"[":
                if row is not None:
                    raise FaultError(TOO_DEEP)
                row = place
            elif sign == b"]":
                if row is None:
                    turn.left -= place - at
                    return LongList(start + 1, place, groups)
                rows += 1
                _add_row(groups, row, place + 1)
                row = None
            else:
                raise FaultError(_OBJECT)
            if rows > BATCH_ROWS or strings > BATCH_ROWS:
                raise FaultError(TOO_MANY_ROWS)
        turn.left -= following - at
        if turn.left < 0:
            await turn.renew()
        at = following
    raise FaultError(not_json(len(body)))


def _add_row(groups: list[tuple[int, int]], start: int, end: int) -> None:
    if groups and end - groups[-1][0] <= PIECE_BYTES:
        groups[-1] = (groups[-1][0], end)
    else:
        groups.append((start, end))


def _too_many_lists(most: int) -> FieldFault:
    return FieldFault(
        reason=f"has more than {most} lists of values: one for each feature, and some of ids",
        code="too_large",
    )


def _given_twice(name: str) -> FieldFault:
    """Return the fault of a repeated key. Its `field` is None: a client can invent the name."""
    shown = shown_name(name) or "a key, whose name is not shown,"
    return FieldFault(reason=f"gives {shown} twice in one object", code="repeated_key")


def _continued(at: int, place: int, limit: int, end: int) -> int:
    """Return where to go on with a string that did not end. Raises FaultError."""
    if limit == end:
        raise FaultError(not_json(end))
    if place == at:
        raise FaultError(too_large(STEP_BYTES))
    return place


def _decoded(text: bytes, place: int) -> str:
    try:
        return _name.decode(text)
    except REFUSALS:
        raise FaultError(not_json(place)) from None


async def pieces(
    body: bytes, long: LongList, turn: TurnBudget, size: int | None = None
) -> AsyncIterator[tuple[int, bytes]]:
    """Yield the list in parts that are JSON lists, each with its place in the body.

    A part of a flat list has about `size` bytes, by default PIECE_BYTES. If each part is valid and
    has a value, the list is valid. A list with rows has whole rows in each part. An empty list has
    no part. Raises FaultError.
    """
    size = size or PIECE_BYTES
    before = long.start
    for start, end in _groups(body, long) if long.groups else _values(body, long, size):
        await turn.spend(LIST + NUMBER_BYTE * (end - start) + start - before)
        before = end
        yield start, b"[%b]" % body[start:end]


def _values(body: bytes, long: LongList, size: int) -> Iterator[tuple[int, int]]:
    at, end = long.start, long.end
    if end - at <= STEP_BYTES and _WHITE.fullmatch(body, at, end):
        return
    while (cut := body.find(b",", at + size, end)) >= 0:
        if cut - at > size + STEP_BYTES:
            raise FaultError(too_large(STEP_BYTES))
        yield at, cut
        at = cut + 1
    if end - at > size + STEP_BYTES:
        raise FaultError(too_large(STEP_BYTES))
    yield at, end


def _groups(body: bytes, long: LongList) -> Iterator[tuple[int, int]]:
    before, gap = long.start, _WHITE
    for start, end in long.groups:
        if end - start > ROW_BYTES:
            raise FaultError(too_large(ROW_BYTES))
        _check_gap(gap, body, before, start)
        yield start, end
        before, gap = end, _COMMA
    _check_gap(_WHITE, body, before, long.end)


def _check_gap(gap: re.Pattern[bytes], body: bytes, start: int, end: int) -> None:
    """Check what is between two rows. Raises FaultError."""
    if end - start > STEP_BYTES:
        raise FaultError(too_large(STEP_BYTES))
    if not gap.fullmatch(body, start, end):
        raise FaultError(not_json(start))
