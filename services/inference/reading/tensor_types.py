"""The data types of tensors, and the values of one tensor."""

import re
import struct
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from services.inference.reading.faults import REFUSALS, FaultCode, FaultError, FieldFault, not_json
from services.inference.reading.identifiers import IDENTIFIER, Identifier, is_identifier
from services.inference.reading.outline import PIECE_BYTES, STEP_BYTES, LongList, pieces
from services.inference.reading.turns import TOKEN, TurnBudget
from services.inference.reading.wording import NOT_FINITE, in_words

_NAN = re.compile(rb"-?(?:NaN|Infinity)")
_PLACE = re.compile(r"\(byte (\d+)\)")
_LENGTH = struct.Struct("<I")
BYTES = "BYTES"


class NumberType(NamedTuple):
    """A data type: its little-endian form, and the decoders of flat lists and of lists of rows."""

    name: str
    dtype: "np.dtype[Any]"
    flat: "msgspec.json.Decoder[Any]"
    rows: "msgspec.json.Decoder[Any]"


def _type(name: str, form: str, kind: Any) -> NumberType:
    decoder = msgspec.json.Decoder
    return NumberType(name, np.dtype(form), decoder(list[kind]), decoder(list[list[kind]]))


NUMBERS = {
    known.name: known
    for known in (
        _type("FP64", "<f8", float),
        _type("FP32", "<f4", float),
        # A byte for each value, which is 0 or 1.
        _type("BOOL", "u1", bool),
        *(_type(f"INT{8 * width}", f"<i{width}", int) for width in (1, 2, 4, 8)),
        *(_type(f"UINT{8 * width}", f"<u{width}", int) for width in (1, 2, 4, 8)),
    )
}
_IDS = _type(BYTES, "O", Identifier | None)


class Where(NamedTuple):
    """The name of a tensor in messages: its field of the schema, or its place in `inputs`."""

    field: str | None
    place: int

    def fault(self, reason: str, code: FaultCode = "other") -> FaultError:
        if self.field:
            return FaultError(FieldFault(field=self.field, reason=reason, code=code))
        tensor = f"has a wrong tensor inputs[{self.place}]: it "
        return FaultError(FieldFault(reason=tensor + reason, code=code))


async def numbers_of_list(
    where: Where,
    kind: NumberType,
    body: bytes,
    long: LongList,
    rows: int,
    width: int,
    turn: TurnBudget,
) -> NDArray[Any]:
    """Return the values as an array of shape (rows, width). Raises FaultError."""
    values, filled = np.empty(rows * width, kind.dtype), 0
    async for place, piece in pieces(body, long, turn):
        part = _decoded(where, kind, piece, place, width if long.groups else None)
        if filled + len(part) > len(values):
            filled += len(part)
            break
        try:
            # What is too large for FP32 becomes infinite, and is refused with the row.
            with np.errstate(over="ignore"):
                values[filled : filled + len(part)] = np.array(part, kind.dtype)
        except OverflowError:
            raise where.fault(f"holds a number outside of {kind.name}", "wrong_type") from None
        filled += len(part)
    if filled != len(values):
        raise _wrong_number(where)
    return values.reshape(rows, width)


async def ids_of_list(
    where: Where, body: bytes, long: LongList, rows: int, turn: TurnBudget
) -> "list[str | None]":
    """Return `rows` ids; an id may be None. Raises FaultError."""
    ids: list[str | None] = []
    # A cut at a comma within an id would hide what is wrong with the id.
    async for place, piece in pieces(body, long, turn, STEP_BYTES):
        ids += _decoded(where, _IDS, piece, place, 1 if long.groups else None)
    if len(ids) != rows:
        raise _wrong_number(where)
    return ids


def numbers_of_bytes(
    where: Where, kind: NumberType, data: memoryview, rows: int, width: int
) -> NDArray[Any]:
    """Return binary values as an array of shape (rows, width). Raises FaultError."""
    if len(data) != rows * width * kind.dtype.itemsize:
        raise where.fault("has a binary_data_size that does not fit its shape and datatype")
    values = np.frombuffer(data, kind.dtype).reshape(rows, width)
    if kind.name == "BOOL" and values.max() > 1:
        raise where.fault("holds a byte that is neither 0 nor 1", "wrong_type")
    return values


async def ids_of_bytes(
    where: Where, data: memoryview, rows: int, turn: TurnBudget
) -> "list[str | None]":
    """Return `rows` ids, each behind its length of four bytes. Raises FaultError."""
    ids: list[str | None] = []
    at = 0
    while at < len(data):
        if len(ids) == rows or len(data) - at < _LENGTH.size:
            raise _wrong_number(where)
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + length
        text = str(data[at - length : at], "latin-1") if at <= len(data) else ""
        if not is_identifier(text):
            raise where.fault(f"holds an id that {in_words(IDENTIFIER)[0]}", "bad_id")
        ids.append(text)
        turn.left -= TOKEN
        if turn.left < 0:
            await turn.renew()
    if len(ids) != rows:
        raise _wrong_number(where)
    return ids


def _decoded(
    where: Where, kind: NumberType, piece: bytes, place: int, width: int | None
) -> list[Any]:
    """Decode a part of a list; with `width` it is a list of rows. Raises FaultError."""
    # A long part is one row. It is not decoded if it has other than `width` values.
    if width and len(piece) > PIECE_BYTES + 2 and piece.count(b",") != width - 1:
        raise where.fault("has rows of another length than its shape says")
    try:
        values = (kind.flat if width is None else kind.rows).decode(piece)
    except REFUSALS as error:
        raise _explained(where, piece, place, error) from None
    if not values:
        raise FaultError(not_json(place))
    if width is None:
        return list(values)
    if any(len(row) != width for row in values):
        raise where.fault("has rows of another length than its shape says")
    return [value for row in values for value in row]


def _explained(where: Where, piece: bytes, place: int, error: Exception) -> FaultError:
    reason, code = in_words(str(error))
    if _NAN.search(piece):
        reason, code = NOT_FINITE
    elif not isinstance(error, msgspec.ValidationError):
        byte = _PLACE.search(str(error))
        # The piece has a bracket more.
        return FaultError(not_json(place + int(byte[1]) - 1 if byte else place))
    return where.fault(f"holds a value that {reason}", code)


def _wrong_number(where: Where) -> FaultError:
    return where.fault("has another number of values than its shape says")
