"""Lists of rows in a body, read in pieces."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import msgspec

from services.inference.reading.explaining import ROW_BYTES, Explainer
from services.inference.reading.faults import (
    FaultError,
    FieldFault,
    InvalidBodyError,
    not_json,
    unknown_field,
)
from services.inference.reading.foreign_forms import foreign_form, foreign_names
from services.inference.reading.members import STRING, WHITE
from services.inference.reading.row_count import RowCount
from services.inference.reading.scanning import CHUNK, HEAD_BYTES, RowScanner
from services.inference.reading.transactions import BOM, Reader

BATCH_ROWS = 10_000
# The decoder takes 10 µs for a number such as 5e-324, so 11 ms for a piece of them.
PIECE_BYTES, TAIL_BYTES = 16 << 10, 64
Row = TypeVar("Row", bound=msgspec.Struct)

# Each part is there only behind the part before it.
_HEAD = re.compile(
    rb"(?:%b)?+%b(?:(\{)%b(?:(%b)%b(?:(:)%b(\[)?+)?+)?+)?+"
    % (BOM, WHITE, WHITE, STRING, WHITE, WHITE),
    re.DOTALL,
)
_TAIL = re.compile(rb"\]%b}%b\Z" % (WHITE, WHITE))
_BETWEEN = re.compile(rb"}%b," % WHITE)
_name = msgspec.json.Decoder(str)


class RowList:
    """Bodies of the form `{key: [row, …]}` with at most `most` rows."""

    def __init__(self, key: str, most: int = BATCH_ROWS, piece_bytes: int = PIECE_BYTES) -> None:
        self.key, self.most, self._piece_bytes = key, most, piece_bytes
        self._send = f'{{"{key}": [{{…}}, …]}}'
        self._explainer = Explainer(
            msgspec.defstruct("Rows", [(key, list[Any])], forbid_unknown_fields=True), self._send
        )

    def first_row(self, body: bytes) -> int:
        """Return where the first row begins. Raises InvalidBodyError if there is no list."""
        head = _HEAD.match(body, 0, HEAD_BYTES)
        if head and head[4] and _decoded(head[2]) == self.key:
            return head.end()
        raise InvalidBodyError(self._head_faults(body))

    def stretches(self, body: bytes, start: int) -> Iterator[tuple[int, int]]:
        """Split the list into stretches of about `piece_bytes`, cut where a row appears to end.

        The last one is empty if the end is not found. If each stretch holds valid rows, the body
        is valid too and has the same rows in the same order, because only commas are between them.
        """
        tail = _TAIL.search(body, max(len(body) - TAIL_BYTES, start))
        end = tail.start() if tail else len(body)
        longest = max(self._piece_bytes, ROW_BYTES)
        while cut := _BETWEEN.search(body, start + self._piece_bytes, min(end, start + longest)):
            yield start, cut.start() + 1
            start = cut.end()
        yield start, end if tail and end - start <= longest else start

    def pieces(self, body: bytes) -> Iterator[bytes]:
        """Yield the stretches as JSON lists. Raises InvalidBodyError if there is no list."""
        for start, end in self.stretches(body, self.first_row(body)):
            yield _as_list(body, start, end)

    def _head_faults(self, body: bytes) -> list[FieldFault]:
        """Return why no list begins in the body. Only the first bytes of a long one are read."""
        if len(body) <= ROW_BYTES:
            content = body.removeprefix(BOM)
            return self._explainer.faults(
                content, FaultError(self._misplaced()), len(body) - len(content)
            )
        head = _HEAD.match(body, 0, HEAD_BYTES)
        assert head
        name = _decoded(head[2])
        if not head[1]:
            return [_no_object(body, head.end())]
        if foreign := foreign_form(foreign_names(body[:HEAD_BYTES]), self._send):
            return [foreign]
        if not head[3] or name is None or head.end() >= HEAD_BYTES:
            return [self._misplaced()]
        if name != self.key:
            return [unknown_field(name)]
        return [FieldFault(field=self.key, reason="must be a list", code="wrong_type")]

    def _misplaced(self) -> FieldFault:
        return FieldFault(
            reason=f"must begin with the list {self.key} within {HEAD_BYTES >> 10} KiB",
            code="other",
        )


def _as_list(body: bytes, start: int, end: int) -> bytes:
    return b"".join((b"[", memoryview(body)[start:end], b"]"))


def _no_object(body: bytes, place: int) -> FieldFault:
    """Return the fault of a long body whose first character is at `place`."""
    if place >= HEAD_BYTES:
        return FieldFault(
            reason=f"begins with more than {HEAD_BYTES >> 10} KiB of white space", code="too_large"
        )
    if body[place : place + 1] in b'["-0123456789tfnNI':
        return FieldFault(reason="must be an object", code="wrong_type")
    return not_json(place)


def _decoded(name: bytes | None) -> str | None:
    try:
        return _name.decode(name) if name else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


TRANSACTIONS = RowList("transactions")


async def read_rows(
    reader: Reader[Row], rows: RowList, body: bytes, count: RowCount | None = None
) -> AsyncIterator[list[Row]]:
    """Yield the rows, at most CHUNK at a time; other requests may run in between.

    No row follows a faulty one. At the end, raises InvalidBodyError with the first fault of up to
    REPORTED_FAULTS rows.
    """
    read, scanner, count = 0, None, count or RowCount()
    waiting: list[Row] = []
    for start, end in rows.stretches(body, rows.first_row(body)):
        parsed = reader.read_list(_as_list(body, start, end))
        if not parsed or read + len(parsed) > rows.most:
            # The earlier stretches are whole lists, so all cuts up to `start` are right.
            scanner = RowScanner(reader, rows.key, rows.most, body, start, read)
            break
        read += len(parsed)
        count.rows = read
        waiting += parsed
        while len(waiting) >= CHUNK:
            yield waiting[:CHUNK]
            del waiting[:CHUNK]
            await asyncio.sleep(0)
        await asyncio.sleep(0)
    if waiting:
        yield waiting
    if scanner is None:
        return
    await asyncio.sleep(0)
    for chunk in scanner.slices():
        count.rows = scanner.index
        if chunk and not scanner.faults:
            yield chunk
        await asyncio.sleep(0)
    if scanner.faults:
        raise InvalidBodyError(scanner.faults)
