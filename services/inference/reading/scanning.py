"""Rows of a list, read one by one to find the faulty ones, in steps of bounded work."""

import re
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from services.inference.reading.explaining import ROW_BYTES
from services.inference.reading.faults import (
    REPORTED_FAULTS,
    FaultError,
    FieldFault,
    given_twice,
    not_json,
    too_large,
    unknown_field,
)
from services.inference.reading.members import SCALAR, STRING, WHITE, end_of_container
from services.inference.reading.transactions import Reader

CHUNK = 128
HEAD_BYTES = 4 << 10
# The rows of one turn. To explain a row takes longer than to read it, also a row of a few bytes.
SLICE_BYTES, EXPLAINED_BYTES, EXPLAINED_TIMES = 16 << 10, 1 << 10, 4
# A row with the white space around it.
WINDOW_BYTES = 2 * ROW_BYTES
# After these faults it is not known where the next row begins.
LAST_FAULTS = frozenset({"not_json", "too_deep", "too_large", "too_many_rows"})
ScannedRow = TypeVar("ScannedRow", bound=msgspec.Struct)

_PLAIN = rb'[^{}\[\]"]*+'
# A row without a list or object inside; other rows are measured bracket by bracket.
_FLAT = rb"\{%b(?:%b%b)*+\}|%b|%b" % (_PLAIN, STRING, _PLAIN, STRING, SCALAR)
_ROW = re.compile(rb"%b(%b)%b([,\]])" % (WHITE, _FLAT, WHITE), re.DOTALL)
_STRING_OR_SCALAR = re.compile(rb"%b|%b" % (STRING, SCALAR), re.DOTALL)
_SEPARATOR = re.compile(rb"%b([,\]])" % WHITE)
_EMPTY = re.compile(rb"%b\]" % WHITE)
_WHITE = re.compile(WHITE)
_NEXT_KEY = re.compile(rb",%b(%b)%b:" % (WHITE, STRING, WHITE), re.DOTALL)
_name = msgspec.json.Decoder(str)


class RowScanner(Generic[ScannedRow]):
    """Reads the rows of the list `key` in a body from `start` on, where row `index` begins.

    `index` is later that of the next row. `faults` has the first fault of each faulty row. The scan
    ends at REPORTED_FAULTS faults, at a fault in LAST_FAULTS (a row above `most`, a row that is too
    large or nested too deeply, broken JSON), or at the end of the body.
    """

    def __init__(
        self,
        reader: Reader[ScannedRow],
        key: str,
        most: int,
        body: bytes,
        start: int,
        index: int,
    ) -> None:
        self.faults: list[FieldFault] = []
        self._reader, self._key, self._most, self._body = reader, key, most, body
        self._at, self.index = start, index

    def slices(self) -> Iterator[list[ScannedRow]]:
        """Yield the valid rows, at most CHUNK at a time, after about SLICE_BYTES at the latest.

        A faulty row counts as EXPLAINED_BYTES and EXPLAINED_TIMES its own bytes more. The caller
        lets others run in between. `faults` is complete at the end.
        """
        more = True
        while more:
            chunk: list[ScannedRow] = []
            left = SLICE_BYTES
            while more and left > 0 and len(chunk) < CHUNK:
                before, known = self._at, len(self.faults)
                more = self._read_row(chunk)
                left -= self._at - before
                if len(self.faults) > known:
                    left -= EXPLAINED_BYTES + EXPLAINED_TIMES * (self._at - before)
            yield chunk
        if self.index == 0 and not self.faults:
            self._add(
                FieldFault(field=self._key, reason="must hold at least one row", code="empty")
            )
        if not self.faults:
            yield from self._after_the_list()

    def _read_row(self, chunk: list[ScannedRow]) -> bool:
        """Read one row into `chunk`, or its fault. Returns whether another row follows."""
        body, at = self._body, self._at
        if self.index == 0 and (end := _EMPTY.match(body, at, at + WINDOW_BYTES)):
            self._at = end.end()
            return False
        if self.index == self._most:
            return self._add(
                FieldFault(
                    field=self._key,
                    reason=f"must hold at most {self._most} rows",
                    code="too_many_rows",
                )
            )
        try:
            start, end_of_row, self._at, separator = self._place(at)
            if end_of_row - start > ROW_BYTES:
                raise FaultError(too_large(ROW_BYTES))
        except FaultError as error:
            return self._add(msgspec.structs.replace(error.fault, index=self.index))
        more = self._decode(body[start:end_of_row], start, chunk)
        self.index += 1
        return more and separator == b","

    def _decode(self, row: bytes, start: int, chunk: list[ScannedRow]) -> bool:
        try:
            chunk.append(self._reader.decode(row))
        except msgspec.MsgspecError as error:
            fault = self._reader.faults(row, error, start, most=1)[0]
            return self._add(msgspec.structs.replace(fault, index=self.index))
        return True

    def _add(self, fault: FieldFault) -> bool:
        """Add a fault. Returns whether the scan goes on."""
        self.faults.append(fault)
        return fault.code not in LAST_FAULTS and len(self.faults) < REPORTED_FAULTS

    def _place(self, at: int) -> tuple[int, int, int, bytes]:
        """Return start and end of the row at `at`, the end of its separator, and the separator.

        Raises FaultError if no row and separator are in the window.
        """
        body, limit = self._body, min(at + WINDOW_BYTES, len(self._body))
        if row := _ROW.match(body, at, limit):
            return row.start(1), row.end(1), row.end(), row[2]
        start = self._skip(at, limit)
        if body[start : start + 1] in (b"{", b"["):
            end = end_of_container(body, start, limit) or limit
        else:
            found = _STRING_OR_SCALAR.match(body, start, limit)
            end = found.end() if found else limit if body[start : start + 1] == b'"' else start
        if end > start and (separator := _SEPARATOR.match(body, end, limit)):
            return start, end, separator.end(), separator[1]
        place = self._skip(end, limit)
        if place == limit < len(body):
            raise FaultError(too_large(ROW_BYTES))
        raise FaultError(not_json(place))

    def _skip(self, at: int, limit: int) -> int:
        white = _WHITE.match(self._body, at, limit)
        return white.end() if white else at

    def _after_the_list(self) -> Iterator[list[ScannedRow]]:
        """Read what follows the list: a bracket and white space, or a fault."""
        yield from self._white()
        if self._body[self._at : self._at + 1] != b"}":
            self._add(self._fault_after_the_list())
            return
        self._at += 1
        yield from self._white()
        if self._at < len(self._body):
            self._add(not_json(self._at))

    def _white(self) -> Iterator[list[ScannedRow]]:
        while (end := self._skip(self._at, self._at + SLICE_BYTES)) > self._at:
            self._at = end
            yield []

    def _fault_after_the_list(self) -> FieldFault:
        key = _NEXT_KEY.match(self._body, self._at, self._at + HEAD_BYTES)
        try:
            name = _name.decode(key[1]) if key else None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            name = None
        if name is None:
            return not_json(self._at)
        return given_twice(name) if name == self._key else unknown_field(name)
