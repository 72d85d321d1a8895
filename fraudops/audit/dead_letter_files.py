"""The files of dead letters: their lines and their names."""

import base64
import binascii
import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from fraudops.canonical import decode_json
from fraudops.errors import DataError
from fraudops.spool.frames import MAX_FRAME
from fraudops.spool.segments import LETTERS

LONGEST_LINE = 2 * MAX_FRAME
# The suffix of files that another pod has written. They do not count towards the limit of `put`, so
# that a pod which takes them over still writes its own.
RECEIVED = ".received.jsonl"
# The name of a file that gets no more lines. It is used only once, so that a receiver which gets
# the file a second time recognises it.
_NAME = re.compile(r"[0-9]{8}-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(\.received)?\.jsonl")


class DeadLetter(msgspec.Struct, frozen=True):
    """One line of the file; `payload` is base64."""

    at: datetime
    reason: str
    payload: str

    @property
    def data(self) -> bytes:
        return base64.b64decode(self.payload)

    @property
    def kind(self) -> str:
        """The reason, without parts that may quote data or that name one segment."""
        parts = self.reason.split(": ")
        return ": ".join(parts[:2]) if parts[0] == "PostgreSQL refuses it" else parts[0]


def is_final_file(name: str) -> bool:
    """Return whether a file of that name gets no more lines and may be handed over."""
    return _NAME.fullmatch(name) is not None


def received_name(name: str) -> str:
    """Return the name of a file of another pod in the folder of this one."""
    return sent_name(name).removesuffix(LETTERS) + RECEIVED


def sent_name(name: str) -> str:
    """Return the name under which a file is sent to another pod, always the same one."""
    return name.removesuffix(RECEIVED) + LETTERS if name.endswith(RECEIVED) else name


def append_lines(descriptor: int, entries: Sequence[DeadLetter]) -> int:
    """Append all of the entries or none, sync them, and return the size of the file."""
    # Otherwise the first new line would be joined to half of an old one.
    _cut_torn_line(descriptor)
    before = os.fstat(descriptor).st_size
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        os.fsync(descriptor)
    except OSError:
        # The caller tries again. On a full disk each attempt would otherwise add some of the lines.
        os.ftruncate(descriptor, before)
        raise
    return os.fstat(descriptor).st_size


def _cut_torn_line(descriptor: int) -> None:
    """Remove half a line at the end, which a crash during a write leaves.

    Nothing is lost: the shipper records its position after the write, so it reads the record again.
    """
    size = os.fstat(descriptor).st_size
    start = max(0, size - LONGEST_LINE)
    tail = os.pread(descriptor, size - start, start)
    if not tail.endswith(b"\n"):
        os.ftruncate(descriptor, start + tail.rfind(b"\n") + 1)


def read_lines(path: Path) -> Iterator[DeadLetter]:
    """Yield the lines of a file. Raises DataError for a line that the shipper did not write."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = decode_json(line, DeadLetter)
                base64.b64decode(entry.payload, validate=True)
                yield entry
            except (msgspec.MsgspecError, binascii.Error):
                # A last line without its end was torn by a crash, or is being written.
                if line.endswith(b"\n"):
                    raise DataError(
                        f"{path}, line {number} is not a dead letter: correct or delete the line"
                    ) from None
