"""Structs that keep the fields of a newer release.

During an upgrade two releases read and write the same documents. A release that dropped the
fields it does not know would erase what the newer one has written.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from fraudops.canonical import canonical_json, decode_json

Document = TypeVar("Document", bound="Extensible")


class Extensible(msgspec.Struct, frozen=True, kw_only=True):
    """Base class of stored structs; `unknown` holds the fields that this release does not know.

    `msgspec.structs.replace` copies them, so that a changed document keeps them. A commit also
    copies those of the reservation into the entry. `unknown` is never a field of the stored form.
    """

    unknown: dict[str, Any] = {}


def decode_document(data: bytes, kind: type[Document]) -> Document:
    """Decode JSON into `kind`, keeping unknown fields at every level.

    Raises msgspec.MsgspecError.
    """
    return msgspec.convert(_nested(decode_json(data, object), kind), kind)


def encode_document(document: Extensible) -> bytes:
    """Encode as canonical JSON, with the unknown fields of every level in their places."""
    return canonical_json(_flat(msgspec.to_builtins(document), type(document)))


def _nested(raw: Any, kind: Any) -> Any:
    """Move the unknown fields of a document, and of those inside it, under its key `unknown`."""
    if not isinstance(raw, dict):
        return raw
    fields = _fields(kind)
    known = {name: _each(raw[name], fields[name], _nested) for name in fields.keys() & raw.keys()}
    return known | {"unknown": {name: raw[name] for name in raw.keys() - fields.keys()}}


def _flat(raw: Any, kind: Any) -> Any:
    """Undo `_nested`."""
    fields = _fields(kind)
    known = {name: _each(raw[name], fields[name], _flat) for name in fields.keys() & raw.keys()}
    # Known fields are last, so that they replace an unknown field of the same name.
    return {**raw.get("unknown", {}), **known}


@cache
def _fields(kind: type[Extensible]) -> Mapping[str, Any]:
    """Return the type of every stored field, by its stored name."""
    hints = get_type_hints(kind)
    stored = msgspec.structs.fields(kind)
    return {field.encode_name: hints[field.name] for field in stored if field.name != "unknown"}


def _each(value: Any, hint: Any, change: Callable[[Any, Any], Any]) -> Any:
    """Apply `change` to the documents in a field: one, an optional one, or a tuple of them."""
    # The hint itself is a document's type, or one of its arguments is: `X | None`, `tuple[X, ...]`.
    inner = next((part for part in (hint, *get_args(hint)) if _is_document(part)), None)
    if inner is None or value is None:
        return value
    if get_origin(hint) is tuple:
        return [change(item, inner) for item in value] if _is_list(value) else value
    return change(value, inner)


def _is_document(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Extensible)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)
