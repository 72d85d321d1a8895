"""The size of one read of the spool, whether another read follows, and the room of the spool."""

from pathlib import Path

import pytest

from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.records import encode
from fraudops.errors import SpoolFullError
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.spool.reader import SpoolReader
from fraudops.spool.segments import ASIDE, NEWER, room_bytes, spool_bytes
from tests.support.audit_records import prediction
from tests.support.waiting import eventually

FRAME = 116
PAYLOADS = [bytes(100)] * 20


def test_a_budget_is_split_among_segments_that_have_records(
    tmp_path: Path,
) -> None:
    writers = [SpoolWriter(tmp_path, name, SpoolOptions()) for name in "abc"]
    reader = SpoolReader(tmp_path)
    writers[1].append_many(PAYLOADS)
    [(segment, piece)] = reader.read(10 * FRAME)
    assert (len(piece.payloads), segment.has_more(piece)) == (10, True)
    segment.commit(piece)
    [(_, rest)] = reader.read(1 << 16)
    assert (len(rest.payloads), segment.has_more(rest)) == (10, False)
    writers[0].append_many(PAYLOADS[:5])
    assert [len(piece.payloads) for _, piece in reader.read(1)] == [1, 1]
    reader.close()
    for writer in writers:
        writer.close()


def test_a_finished_segment_may_have_a_successor(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SpoolOptions())
    writer.append_many(PAYLOADS[:5])
    writer.close()
    reader = SpoolReader(tmp_path)
    [(segment, piece)] = reader.read(1 << 16)
    assert segment.has_more(piece)
    segment.commit(piece)
    assert reader.read(1 << 16) == []
    reader.close()


@pytest.mark.parametrize("folder", [ASIDE, NEWER])
def test_dead_letters_count_towards_the_room(tmp_path: Path, folder: str) -> None:
    letters = DeadLetters(tmp_path, folder)
    letters.put([RejectedRecord(bytes(3_000), "why")] * 20)
    kept = sum(path.stat().st_size for path in letters.folder.glob("*.jsonl"))
    writer = SpoolWriter(tmp_path, "w", SpoolOptions(max_bytes=100_000))
    assert (room_bytes(tmp_path), spool_bytes(tmp_path)) == (kept, 0)
    with pytest.raises(SpoolFullError):
        writer.append_many([bytes(1_000)] * 25)
    for path in letters.folder.glob("*.jsonl"):
        path.unlink()

    def has_room() -> None:
        writer.append_many([bytes(1_000)] * 25)

    eventually(has_room)
    writer.close()


def test_the_dead_letters_of_a_full_spool_can_be_replayed(tmp_path: Path) -> None:
    """A replay moves their bytes. If they counted, it would never begin."""
    letters = DeadLetters(tmp_path)
    letters.put([RejectedRecord(encode(prediction()), "why")] * 100)
    assert letters.replay(maximum=40_000).records == 100
    assert list(letters.entries()) == []
