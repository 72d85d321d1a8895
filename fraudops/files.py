"""Small files that one process writes and others read: renamed into place, so that nobody sees half
of one. They need not survive the node.
"""

import contextlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from fraudops.canonical import canonical_json

Content = TypeVar("Content", bound=msgspec.Struct)


def write_json(path: Path, content: msgspec.Struct) -> None:
    """Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(canonical_json(content))
    temporary.replace(path)


def read_json(path: Path, kind: type[Content]) -> Content | None:
    """None when the file is not there, or another release wrote what we cannot read."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None
