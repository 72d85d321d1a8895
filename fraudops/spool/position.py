"""How far a segment is safe elsewhere: one line beside it, overwritten in its place.

A file that is renamed into place is never seen half either, but ext4 writes it out at once, ten
times a second, and appends to the spool wait for that: with a shipper that only read and noted
its positions, p99 of the answers was 5.5 ms, and is 1.9 so. A checksum tells whoever reads
meanwhile, or after the node died, that the line is not whole.
"""

import errno
import os
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

POSITION = ".position"


class Position(NamedTuple):
    """`refused` at least of its records were set aside instead of going up to `offset`, or others
    of their group; `ordinal` is the next record's number.
    """

    offset: int = 0
    ordinal: int = 0
    refused: int = 0


def read_position(path: Path) -> Position | None:
    """None when none is there, or none that is whole."""
    try:
        with path.open("rb") as file:
            line = file.read(64)
        offset, ordinal, *rest = map(int, line.split())
    except (OSError, ValueError):
        return None
    # Older lines have no checksum and no leading zeros, the oldest no count of what was refused
    # either.
    if (
        line.startswith(b"0")
        and len(line) > 10
        and (len(rest) != 2 or rest[1] != crc32(line.rpartition(b" ")[0]))
    ):
        return None
    return Position(offset, ordinal, rest[0] if rest else 0)


def write_position(path: Path, position: Position) -> None:
    """Not synced: a position that is lost makes rows come again, which changes nothing.

    Raises OSError.
    """
    line = b"%020d %010d %010d" % position
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        line = b"%b %010d\n" % (line, crc32(line))
        if os.pwrite(descriptor, line, 0) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)
