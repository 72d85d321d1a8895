"""The size of one read of the spool, and whether another read follows."""

from pathlib import Path

from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.spool.reader import SpoolReader

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
