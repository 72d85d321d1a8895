"""The format of a segment: a sequence of frames.

A frame has a header of 16 bytes and a payload:

    magic 4 | ordinal 4 | length 4 | crc32 4 | payload

Numbers are unsigned and little-endian. The checksum covers ordinal, length and payload, so that
each frame can be verified without its neighbours. The ordinal counts the frames of the segment: a
gap in it tells how many records a damaged stretch held.
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
    """Return the frame of a payload.

    Raises ValueError for a payload of more than MAX_PAYLOAD bytes, which no reader accepts.
    """
    size = len(payload)
    if size > MAX_PAYLOAD:
        raise ValueError(f"a record of {size} bytes is larger than the limit of {MAX_PAYLOAD}")
    prefix = _prefix.pack(MAGIC, ordinal, size)
    return prefix + _checksum.pack(crc32(payload, crc32(prefix))) + payload


class Frame(NamedTuple):
    """A decoded frame; `end` is the offset of the byte after it."""

    ordinal: int
    payload: bytes
    end: int


def frame_at(data: bytes, offset: int) -> Frame | None:
    """Return the frame that begins at `offset`, or None if it is incomplete or invalid."""
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
    """Return the offset of the first valid frame at or after `offset`, or None."""
    while (start := data.find(MAGIC, offset)) >= 0:
        # A payload may contain the magic, so only a frame with a right checksum counts.
        if frame_at(data, start):
            return start
        offset = start + 1
    return None


def last_frame(data: bytes) -> Frame | None:
    """Return the last valid frame in `data`, or None."""
    start = data.rfind(MAGIC)
    while start >= 0:
        if frame := frame_at(data, start):
            return frame
        # The range ends within this magic, so that the search finds an earlier one.
        start = data.rfind(MAGIC, 0, start + len(MAGIC) - 1)
    return None
