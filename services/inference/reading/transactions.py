"""Readers of structs, and of the transactions of one schema."""

import struct
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from fraudops.schema import Feature, FeatureSchema
from services.inference.reading.explaining import Explainer
from services.inference.reading.faults import (
    REFUSALS,
    REPORTED_FAULTS,
    FaultError,
    FieldFault,
    InvalidBodyError,
    given_twice,
    shown_name,
)
from services.inference.reading.identifiers import Identifier
from services.inference.reading.members import repeated_name
from services.inference.reading.quotes import QuoteCount
from services.inference.reading.wording import NOT_FINITE

BOM = b"\xef\xbb\xbf"
# The decoder takes 10 µs for a number such as 5e-324. So the members of a large row, or of a large
# part of a list, are counted before: one field may be there thousands of times.
LARGE_ROW, LARGE_PIECE = 8 << 10, 20 << 10
# Identifiers and times hold some colons, and a part of a list may hold several rows.
_COLONS_IN_VALUES, _COLONS_IN_ROWS = 256, 1024
Kind = TypeVar("Kind", bound=msgspec.Struct)


class Reader(Generic[Kind]):
    """Reads structs of one kind, alone or as rows of a list. A repeated key is refused."""

    def __init__(self, kind: type[Kind], send: str | None = None) -> None:
        """`send` says what the service takes, to a client that sends another server's form."""
        self.kind = kind
        self._decoder = msgspec.json.Decoder(kind)
        self._list_decoder = msgspec.json.Decoder(list[kind])  # type: ignore[valid-type]
        self._explainer = Explainer(kind, send)
        self._most_colons = self._explainer.most_members + _COLONS_IN_VALUES
        self._count = QuoteCount(kind)
        self._quotes = self._count.required

    def read(self, body: bytes) -> Kind:
        """Decode the body of a request. Raises InvalidBodyError."""
        offset = len(BOM) if body.startswith(BOM) else 0
        row = body[offset:]
        try:
            return self.decode(row)
        except msgspec.MsgspecError as error:
            raise InvalidBodyError(self.faults(row, error, offset)) from error

    def decode(self, row: bytes) -> Kind:
        """Decode one struct; `faults` explains a failure. Raises msgspec.MsgspecError."""
        if len(row) > LARGE_ROW and row.count(b":") > self._most_colons:
            raise msgspec.ValidationError("more members than are explained")
        try:
            value = self._decoder.decode(row)
        except msgspec.MsgspecError:
            raise
        # Bytes that are not UTF-8, or in a kind that skips unknown fields a value that is nested
        # too deeply.
        except REFUSALS as error:
            raise msgspec.ValidationError(str(error)) from error
        if row.count(b'"') != self._quotes:
            self._refuse_repeated(row, value)
        return value

    def _refuse_repeated(self, row: bytes, value: Kind) -> None:
        if self._count.explains(b"[%b]" % row, [value]):
            return
        try:
            # Skipped values are not decoded, so their bytes are checked here.
            row.decode()
            name = repeated_name(row)
        except REFUSALS as error:
            raise msgspec.ValidationError(str(error)) from error
        if name is not None:
            fault = FaultError(given_twice(shown_name(name)))
            raise msgspec.ValidationError(str(fault)) from fault

    def read_list(self, piece: bytes) -> list[Kind]:
        """Return the rows of a JSON list, or an empty list if a row may be invalid."""
        if len(piece) > LARGE_PIECE and piece.count(b":") > self._most_colons + _COLONS_IN_ROWS:
            return []
        try:
            values = self._list_decoder.decode(piece)
        except REFUSALS:
            return []
        return values if self._count.explains(piece, values) else []

    def faults(
        self,
        row: bytes,
        refusal: Exception | None = None,
        offset: int = 0,
        most: int = REPORTED_FAULTS,
    ) -> list[FieldFault]:
        """Return the first `most` faults of a row that `decode` refused: at least one.

        `refusal` is the error, and `offset` is the row's place in the body. Never raises.
        """
        return self._explainer.faults(row, refusal, offset, most)


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
        self.names = schema.names
        self._minima = np.array([feature.minimum for feature in schema.features])
        self._maxima = np.array([feature.maximum for feature in schema.features])
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
            ),
            "an object with a number for each feature",
        )

    def matrix(self, transactions: Sequence[msgspec.Struct]) -> NDArray[np.float64]:
        """Return the features as a read-only array of shape (rows, features)."""
        # Through packed bytes this takes a third of the time that numpy needs to inspect the
        # type of each value.
        packed = b"".join(
            [self._pack(*astuple(transaction)[: self.features]) for transaction in transactions]
        )
        return np.frombuffer(packed).reshape(len(transactions), self.features)

    def faults_of(self, x: NDArray[np.float64]) -> list[FieldFault]:
        """Return the faults of an array of shape (rows, features): none if all values are valid.

        The columns are in the schema's order. A single row has all its faults, and several rows the
        first of each, up to REPORTED_FAULTS. Raises ValueError for another shape.
        """
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"expected an array of shape (rows, {self.features})")
        # NaN compares as false, so it is no value within the bounds either.
        bad = ~((x >= self._minima) & (x <= self._maxima) & np.isfinite(x))
        if len(x) == 1:
            places = [(0, int(column)) for column in np.flatnonzero(bad[0])]
        else:
            rows = np.flatnonzero(bad.any(axis=1))[:REPORTED_FAULTS]
            places = [(int(row), int(bad[row].argmax())) for row in rows]
        return [self._fault(row, column, float(x[row, column])) for row, column in places]

    def _fault(self, row: int, column: int, value: float) -> FieldFault:
        reason, code = NOT_FINITE
        if np.isfinite(value):
            below = value < self._minima[column]
            reason = (
                f"must be at least {self._minima[column]:g}"
                if below
                else f"must be at most {self._maxima[column]:g}"
            )
            code = "below_minimum" if below else "above_maximum"
        return FieldFault(index=row, field=self.names[column], reason=reason, code=code)

    def transactions(
        self, x: NDArray[np.float64], ids: Iterable[tuple[str | None, str | None]]
    ) -> list[Any]:
        """Return the rows of a valid array as structs of `kind`, without decoding.

        `ids` has a pair of transaction_id and entity_key for each row, valid or None. Raises
        ValueError for another number of pairs.
        """
        return [self.kind(*row, *pair) for row, pair in zip(x.tolist(), ids, strict=True)]


def _number(feature: Feature) -> Any:
    return Annotated[float, msgspec.Meta(ge=feature.minimum, le=feature.maximum)]
