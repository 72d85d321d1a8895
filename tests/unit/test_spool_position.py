"""A position is one line that is overwritten in place.

A reader gets a complete position or none.
"""

from pathlib import Path

import pytest

from fraudops.spool.position import Position, read_position, write_position


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"116 1\n", Position(116, 1, 0)),
        (b"116 1 3\n", Position(116, 1, 3)),
        (b"", None),
        (b"58", None),
        (bytes(53), None),
        (b"00000000000000000116 0000000001 0000000003 0000000000\n", None),
        (b"00000000000000000116 0000000001 0000", None),
    ],
    ids=["the oldest", "without a checksum", "empty", "half", "zeros", "torn", "cut off"],
)
def test_a_position_is_read_completely_or_not_at_all(
    tmp_path: Path, line: bytes, expected: Position | None
) -> None:
    path = tmp_path / "position"
    assert read_position(path) is None
    path.write_bytes(line)
    assert read_position(path) == expected
    for position in (Position(1, 2, 3), Position(10**15, 10**9, 0)):
        write_position(path, position)
        assert read_position(path) == position
    # The previous release must be able to read it.
    assert tuple(map(int, path.read_text().split()))[:3] == position
