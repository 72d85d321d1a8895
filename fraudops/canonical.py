"""Canonical JSON, its decoding, and digests: equal content has equal bytes in every process."""

import hashlib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

Content = TypeVar("Content")
_encoder = msgspec.json.Encoder(order="sorted")


def canonical_json(value: Any) -> bytes:
    """Encode a value as JSON with sorted keys, without white space, in UTF-8.

    A struct or a dataclass becomes an object of its fields.
    """
    return _encoder.encode(value)


def decode_json(data: bytes, kind: type[Content]) -> Content:
    """Decode JSON into `kind`, or into plain objects for the kind `object`.

    Raises msgspec.MsgspecError for all data that cannot be decoded.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    # msgspec raises these two as they are, the second one also for a field that it skips.
    except UnicodeDecodeError:
        raise msgspec.DecodeError("JSON is not UTF-8") from None
    except RecursionError:
        raise msgspec.DecodeError("JSON is nested too deeply") from None


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
