"""A position is one line that is overwritten in its place: whoever reads it has it whole or not at
all.
"""

from pathlib import Path

import pytest

from fraudops.spool.position import Position, read_position, write_position


@pytest.mark.parametrize(
    ("line", "wanted"),
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
def test_a_position_is_read_whole_or_not_at_all(
    tmp_path: Path, line: bytes, wanted: Position | None
) -> None:
    path = tmp_path / "position"
    assert read_position(path) is None
    path.write_bytes(line)
    assert read_position(path) == wanted
    for position in (Position(1, 2, 3), Position(10**15, 10**9, 0)):
        write_position(path, position)
        assert read_position(path) == position
    # The release before reads it too.
    assert tuple(map(int, path.read_text().split()))[:3] == position
