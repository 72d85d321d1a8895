"""Repeated keys, recognised by the number of quotes.

In a valid object each key has two quotes, and so has each value that is a string. So the number of
quotes is known from the decoded value. A repeated key adds at least two.
"""

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any

import msgspec
from msgspec import UNSET, inspect

_NUMBERS = (inspect.IntType, inspect.FloatType, inspect.BoolType)
_STRINGS = (inspect.StrType, inspect.DateTimeType, inspect.UUIDType)


class QuoteCount:
    """Counts the quotes of objects of a kind whose fields are numbers, strings, and null.

    `required` is the number of quotes of an object without optional fields. It is -1 for a kind
    that cannot be counted.
    """

    def __init__(self, kind: type[msgspec.Struct]) -> None:
        described = inspect.type_info(kind)
        assert isinstance(described, inspect.StructType)
        fields = described.fields
        sizes = [_quotes(field) for field in fields]
        optional = [field for field in fields if not field.required]
        countable = described.forbid_unknown_fields and all(sizes)
        # An absent optional field and one that is null look alike in the decoded value.
        self._optional = [attrgetter(field.name) for field in optional]
        self._present = msgspec.json.Decoder(
            list[  # type: ignore[misc]
                msgspec.defstruct(
                    "Present", [(field.encode_name, Any, UNSET) for field in optional]
                )
            ]
        )
        self.required = (
            sum(size for size, field in zip(sizes, fields, strict=True) if field.required)
            if countable and all(size == 4 for size in map(_quotes, optional))
            else -1
        )

    def explains(self, piece: bytes, values: Sequence[msgspec.Struct]) -> bool:
        """Return whether a valid JSON list has the quotes of its decoded values, and no more."""
        if self.required < 0:
            return False
        extra = piece.count(b'"') - self.required * len(values)
        if not extra:
            return True
        given = list(chain.from_iterable(map(get, values) for get in self._optional))
        absent = given.count(None)
        extra -= 4 * (len(given) - absent)
        if not extra:
            return True
        present = self._present.decode(piece)
        nulls = sum(value is None for each in present for value in msgspec.structs.astuple(each))
        return extra == 2 * nulls


def _quotes(field: inspect.Field) -> int:
    """Return the quotes of a field's key and value, or 0 if they are not known."""
    types = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
    given = [each for each in types if not isinstance(each, inspect.NoneType)]
    if field.required and len(given) != len(types):
        return 0
    if all(isinstance(each, _NUMBERS) for each in given):
        return 2
    return 4 if all(isinstance(each, _STRINGS) for each in given) else 0
