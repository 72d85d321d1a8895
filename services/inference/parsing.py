"""Parsing and validation of request bodies; an error names the field and the reason.

An error never contains a value, which may be card data. msgspec decodes a body directly into a
struct that is built from the served schema. Only a refused body is examined a second time, in
slower Python code that finds all of its faults.
"""

import json
import math
import re
import struct
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from fraudops.errors import FraudopsError
from fraudops.schema import Feature, FeatureSchema

BATCH_ROWS = 10_000
REPORTED_FAULTS = 100
ROW_BYTES = 64 << 10
PIECE_BYTES, TAIL_BYTES = 64 << 10, 64
IDENTIFIER = r"[A-Za-z0-9._:-]{1,64}"
ONE_NAME = "must name the transaction by either prediction_id or transaction_id"

Kind = TypeVar("Kind", bound=msgspec.Struct)
Identifier = Annotated[str, msgspec.Meta(pattern=rf"\A{IDENTIFIER}\Z")]
_IDENTIFIER = re.compile(IDENTIFIER)
# A client may send card data as a field's name, so names with many digits are not shown.
_SHOWN_NAME = re.compile(r"(?!(?:.*[0-9]){5})[A-Za-z_][A-Za-z0-9_]{0,31}")
_NOT_FINITE = re.compile(rb"(?<=[:,\[\s])-?(?:NaN|Infinity)(?=[\s,}\]])")
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


class FieldFault(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One fault of a body: the row's index (in a list), the field, and the reason."""

    index: int | None = None
    field: str | None = None
    reason: str


class InvalidBodyError(FraudopsError):
    """A refused body; `faults` holds its first REPORTED_FAULTS faults."""

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        self.faults = tuple(faults[:REPORTED_FAULTS])
        first = self.faults[0]
        where = "" if first.index is None else f"row {first.index}: "
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{where}{first.field or 'the body'} {first.reason}{more}")


class LabelEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome of one transaction, named by its prediction's id or by the client's id."""

    label: Annotated[int, msgspec.Meta(ge=0, le=1)]
    labelled_at: Annotated[datetime, msgspec.Meta(tz=True)]
    source: Identifier
    prediction_id: uuid.UUID | None = None
    transaction_id: Identifier | None = None

    def __post_init__(self) -> None:
        if (self.prediction_id is None) == (self.transaction_id is None):
            raise ValueError(ONE_NAME)


class Reader(Generic[Kind]):
    """Reads structs of one kind, alone or as rows of a list."""

    def __init__(self, kind: type[Kind]) -> None:
        self.kind = kind
        self._decoder = msgspec.json.Decoder(kind)
        self._list_decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]

    def read(self, body: bytes) -> Kind:
        """Decode one struct. Raises InvalidBodyError."""
        try:
            return self._decoder.decode(body)
        # A kind that skips unknown fields raises RecursionError for one that is nested too deeply.
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidBodyError(faults_in(self.kind, body)) from error

    def decode(self, row: bytes | msgspec.Raw) -> Kind:
        """Decode one row; `faults` explains a failure.

        Raises msgspec.MsgspecError or UnicodeDecodeError.
        """
        return self._decoder.decode(row)

    def read_list(self, piece: bytes) -> list[Kind]:
        """Return the rows of a JSON list, or an empty list if a row is invalid."""
        try:
            return self._list_decoder.decode(piece)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return []

    def faults(self, row: msgspec.Raw) -> list[FieldFault]:
        """Return the faults of an invalid row."""
        body = bytes(row)
        return (
            faults_in(self.kind, body)
            if len(body) <= ROW_BYTES
            else [FieldFault(reason=f"is larger than {ROW_BYTES >> 10} KiB")]
        )


class TransactionReader(Reader[Any]):
    """Reads transactions of one schema.

    `kind` is their struct: the features in the schema's order, then the two optional ids.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        # Use generated names inside: a column's name could be a keyword or a method in Python.
        internal = [f"f{index}" for index in range(len(schema.features))]
        fields: list[Any] = [
            (name, _number(feature))
            for name, feature in zip(internal, schema.features, strict=True)
        ]
        rename = dict(zip(internal, schema.names, strict=True))
        ids = [("transaction_id", Identifier | None, None), ("entity_key", Identifier | None, None)]
        self.features = len(internal)
        self._pack = struct.Struct(f"{self.features}d").pack
        self.features_kind = msgspec.defstruct(
            "Features", fields, rename=rename, frozen=True, gc=False
        )
        super().__init__(
            msgspec.defstruct(
                "Transaction",
                fields + ids,
                rename=rename,
                frozen=True,
                gc=False,
                forbid_unknown_fields=True,
                omit_defaults=True,
            )
        )

    def matrix(self, transactions: Sequence[msgspec.Struct]) -> NDArray[np.float64]:
        """Return the features as a read-only array of shape (rows, features)."""
        # Through packed bytes this takes a third of the time that numpy needs to inspect the
        # type of each value.
        packed = b"".join(
            [self._pack(*astuple(transaction)[: self.features]) for transaction in transactions]
        )
        return np.frombuffer(packed).reshape(len(transactions), self.features)


def is_identifier(text: str) -> bool:
    """Return whether the text is 1 to 64 characters of the set that IDENTIFIER allows."""
    return _IDENTIFIER.fullmatch(text) is not None


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
        FieldFault(reason=ONE_NAME if kind is LabelEntry else "is not accepted")
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


def _number(feature: Feature) -> Any:
    return Annotated[float, msgspec.Meta(ge=feature.minimum, le=feature.maximum)]
