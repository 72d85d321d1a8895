"""The format of a segment: frames of a 16-byte header and a payload, each provable on its own.

    magic 4 | ordinal 4 | length 4 | crc32 4 | payload          (little-endian; the checksum covers ordinal, length and payload)

The ordinal counts frames within the segment, so that a gap says how many records a damaged
stretch held.
"""

import struct
from typing import NamedTuple
from zlib import crc32

MAGIC = b"\xf1op1"
MAX_PAYLOAD = 1 << 20
_prefix = struct.Struct("<4sII")
_checksum = struct.Struct("<I")
_header = struct.Struct("<4sIII")
HEADER = _header.size
MAX_FRAME = HEADER + MAX_PAYLOAD


def encode_frame(ordinal: int, payload: bytes) -> bytes:
    """Raises ValueError for a payload that no reader would take."""
    size = len(payload)
    if size > MAX_PAYLOAD:
        raise ValueError(f"a record of {size} bytes is larger than {MAX_PAYLOAD}")
    prefix = _prefix.pack(MAGIC, ordinal, size)
    return prefix + _checksum.pack(crc32(payload, crc32(prefix))) + payload


class Frame(NamedTuple):
    ordinal: int
    payload: bytes
    end: int


def frame_at(data: bytes, offset: int) -> Frame | None:
    """The whole and valid frame that begins at `offset`, else None."""
    start = offset + HEADER
    if start > len(data):
        return None
    magic, ordinal, length, checksum = _header.unpack_from(data, offset)
    if magic != MAGIC or length > MAX_PAYLOAD or start + length > len(data):
        return None
    payload = data[start : start + length]
    if crc32(payload, crc32(data[offset : offset + _prefix.size])) != checksum:
        return None
    return Frame(ordinal, payload, start + length)


def next_frame(data: bytes, offset: int) -> int | None:
    """Where the first valid frame at or after `offset` begins, None if there is none."""
    while (found := data.find(MAGIC, offset)) >= 0:
        if frame_at(data, found):
            return found
        offset = found + 1
    return None


def last_frame(data: bytes) -> Frame | None:
    """The last whole and valid frame that lies in `data`, None if there is none."""
    found = data.rfind(MAGIC)
    while found >= 0:
        if frame := frame_at(data, found):
            return frame
        found = data.rfind(MAGIC, 0, found + len(MAGIC) - 1)
    return None
