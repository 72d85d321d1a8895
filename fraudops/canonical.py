"""Canonical JSON and digests: equal content has equal bytes in every process."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(order="sorted")


def canonical_json(value: Any) -> bytes:
    """Encode a value as JSON with sorted keys, without white space, in UTF-8.

    A struct or a dataclass becomes an object of its fields.
    """
    return _encoder.encode(value)


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
