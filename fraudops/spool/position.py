"""Positions of the shipper: a file next to each segment says how far it is shipped.

The file has one line, which is overwritten in place, not replaced by a rename. ext4 flushes a
renamed file to the disk immediately, and appends to the spool wait for that flush. With ten
positions a second, p99 of the answers was 5.5 ms with a rename and is 1.9 ms in place. A checksum
lets readers detect a line that is half written, or was torn when the node died.
"""

import errno
import os
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

POSITION = ".position"


class Position(NamedTuple):
    """A segment is shipped up to `offset`; `ordinal` is the number of the next record.

    `refused` grows whenever a record of this segment, or of a batch that was shipped with it,
    became a dead letter.
    """

    offset: int = 0
    ordinal: int = 0
    refused: int = 0


def read_position(path: Path) -> Position | None:
    """Return the position, or None if the file is missing or its line is not whole."""
    try:
        with path.open("rb") as file:
            line = file.read(64)
        offset, ordinal, *rest = map(int, line.split())
    except (OSError, ValueError):
        return None
    # Older releases wrote lines without a checksum and without leading zeros. The oldest lines
    # have no `refused` either. Both are accepted as they are.
    if (
        line.startswith(b"0")
        and len(line) > 10
        and (len(rest) != 2 or rest[1] != crc32(line.rpartition(b" ")[0]))
    ):
        return None
    return Position(offset, ordinal, rest[0] if rest else 0)


def write_position(path: Path, position: Position) -> None:
    """Write the position without a sync.

    If the node loses it, records are shipped again; their primary keys make that harmless. Raises
    OSError.
    """
    # All numbers have a fixed width: a new line covers the old one completely.
    line = b"%020d %010d %010d" % position
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        line = b"%b %010d\n" % (line, crc32(line))
        # A disk that becomes full may cause a short write instead of an error.
        if os.pwrite(descriptor, line, 0) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)
