"""Readers of structs, and of the transactions of one schema."""

import struct
from collections.abc import Sequence
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import numpy as np
from msgspec.structs import astuple
from numpy.typing import NDArray

from fraudops.schema import Feature, FeatureSchema
from services.inference.reading.explaining import faults_in
from services.inference.reading.faults import FieldFault, InvalidBodyError
from services.inference.reading.identifiers import Identifier

ROW_BYTES = 64 << 10
Kind = TypeVar("Kind", bound=msgspec.Struct)


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


def _number(feature: Feature) -> Any:
    return Annotated[float, msgspec.Meta(ge=feature.minimum, le=feature.maximum)]
