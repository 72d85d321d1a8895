"""Lists of rows in a body, read in pieces."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeVar

import msgspec

from services.inference.reading.explaining import faults_in
from services.inference.reading.faults import REPORTED_FAULTS, FieldFault, InvalidBodyError
from services.inference.reading.transactions import ROW_BYTES, Reader

BATCH_ROWS = 10_000
PIECE_BYTES, TAIL_BYTES = 64 << 10, 64
CHUNK = 128
Row = TypeVar("Row", bound=msgspec.Struct)
_NOT_FINITE = re.compile(rb"(?<=[:,\[\s])-?(?:NaN|Infinity)(?=[\s,}\]])")


class RowList:
    """Bodies of the form `{key: [row, …]}` with at most `most` rows."""

    def __init__(self, key: str, most: int = BATCH_ROWS, piece_bytes: int = PIECE_BYTES) -> None:
        self.key, self.most, self._piece_bytes = key, most, piece_bytes
        space, name = rb"[ \t\r\n]*", re.escape(key.encode())
        self._head = re.compile(rb'%b{%b"%b"%b:%b\[' % (space, space, name, space, space))
        self._tail = re.compile(rb"\]%b}%b\Z" % (space, space))
        self._between = re.compile(rb"}%b," % space)
        self._shape = msgspec.defstruct("Rows", [(key, list[Any])], forbid_unknown_fields=True)
        self._decoder = msgspec.json.Decoder(
            msgspec.defstruct("Rows", [(key, list[msgspec.Raw])], forbid_unknown_fields=True)
        )

    def pieces(self, body: bytes) -> Iterator[bytes]:
        """Split the list into chunks of about `piece_bytes`, cut where a row appears to end.

        Yields b"" if the body has another shape. If each chunk is a valid list of at least one
        row, the body is valid too and has the same rows in the same order, because only commas
        are between the chunks.
        """
        head, tail = self._head.match(body), self._tail.search(body, max(len(body) - TAIL_BYTES, 0))
        if not head or not tail:
            yield b""
            return
        start, end, view = head.end(), tail.start(), memoryview(body)
        longest = self._piece_bytes + ROW_BYTES
        while cut := self._between.search(
            body, start + self._piece_bytes, min(end, start + longest)
        ):
            yield b"".join((b"[", view[start : cut.start() + 1], b"]"))
            start = cut.end()
        yield b"".join((b"[", view[start:end], b"]")) if end - start <= longest else b""

    def split(self, body: bytes) -> list[msgspec.Raw]:
        """Return the rows, each still as JSON. Raises InvalidBodyError."""
        try:
            rows: list[msgspec.Raw] = getattr(self._decoder.decode(body), self.key)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            # NaN is no JSON, so it makes the whole body invalid. Replaced by a number that is out
            # of range, it becomes a fault of one row and field.
            finite = _NOT_FINITE.sub(b"1e999", body)
            if finite == body:
                raise InvalidBodyError(faults_in(self._shape, body)) from error
            return self.split(finite)
        if not rows:
            raise InvalidBodyError(
                [FieldFault(field=self.key, reason="must hold at least one row")]
            )
        if len(rows) > self.most:
            raise InvalidBodyError(
                [FieldFault(field=self.key, reason=f"must hold at most {self.most} rows")]
            )
        return rows


TRANSACTIONS = RowList("transactions")


async def read_rows(reader: Reader[Row], rows: RowList, body: bytes) -> AsyncIterator[list[Row]]:
    """Yield the rows, at most CHUNK at a time; other requests may run in between.

    No row follows a faulty one. At the end, raises InvalidBodyError with the first fault of up to
    REPORTED_FAULTS rows.
    """
    read = 0
    for piece in rows.pieces(body):
        parsed = reader.read_list(piece)
        if not parsed or read + len(parsed) > rows.most:
            break
        read += len(parsed)
        for start in range(0, len(parsed), CHUNK):
            yield parsed[start : start + CHUNK]
            await asyncio.sleep(0)
    else:
        return
    # Decode row by row to find the faults. Rows of earlier pieces were yielded already.
    faults: list[FieldFault] = []
    raws = rows.split(body)
    for start in range(0, len(raws), CHUNK):
        chunk: list[Row] = []
        for index, raw in enumerate(raws[start : start + CHUNK], start):
            try:
                chunk.append(reader.decode(raw))
            except (msgspec.MsgspecError, UnicodeDecodeError):
                faults.append(msgspec.structs.replace(reader.faults(raw)[0], index=index))
        if len(faults) >= REPORTED_FAULTS:
            break
        if not faults and not read:
            yield chunk
        await asyncio.sleep(0)
    if read and not faults:
        # All rows are valid, so the cuts were right. The body then has the list twice: the pieces
        # came from the first one, and the decoder uses the last one.
        faults.append(FieldFault(field=rows.key, reason="must be given once"))
    if faults:
        raise InvalidBodyError(faults)
