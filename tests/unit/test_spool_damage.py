"""Segments that are cut short, or have flipped bits and holes at random places.

Records before the damage are read, the next sound record is found, and none is invented.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from fraudops.spool.frames import HEADER, encode_frame
from fraudops.spool.segment_reader import CHUNK
from tests.support.segments import SegmentContents, segment_of

EXAMPLES = settings(max_examples=150, deadline=None, database=None)
contents = st.lists(st.binary(max_size=60), min_size=1, max_size=25)


@EXAMPLES
@given(contents, st.integers(1, 300))
def test_an_undamaged_segment_is_read_completely_with_any_budget(
    payloads: list[bytes], budget: int
) -> None:
    data, _ = segment_of(payloads)
    read = SegmentContents(data, budget)
    assert (read.payloads, read.missing, read.damaged) == (payloads, 0, 0)


@EXAMPLES
@given(contents, st.data())
def test_a_truncated_segment_gives_every_complete_frame_before_the_cut(
    payloads: list[bytes], data: st.DataObject
) -> None:
    whole, ends = segment_of(payloads)
    cut = data.draw(st.integers(0, len(whole)))
    read = SegmentContents(whole[:cut])
    kept = sum(end <= cut for end in ends)
    assert read.payloads == payloads[:kept]
    assert read.damaged == cut - (ends[kept - 1] if kept else 0)


@EXAMPLES
@given(contents, st.data())
def test_a_flipped_bit_loses_only_its_own_record_and_is_counted(
    payloads: list[bytes], data: st.DataObject
) -> None:
    whole, ends = segment_of(payloads)
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    hit = sum(end <= bit // 8 for end in ends)
    read = SegmentContents(bytes(flipped))
    assert read.payloads == payloads[:hit] + payloads[hit + 1 :]
    assert read.damaged == HEADER + len(payloads[hit])
    # After the last record nothing shows that one is missing: the damage looks like the unfinished
    # write of a dead process.
    assert read.missing == (1 if hit < len(payloads) - 1 else 0)


@EXAMPLES
@given(contents, st.data())
def test_a_hole_loses_only_the_records_that_it_touches(
    payloads: list[bytes], data: st.DataObject
) -> None:
    whole, ends = segment_of(payloads)
    start = data.draw(st.integers(0, len(whole) - 1))
    stop = data.draw(st.integers(start + 1, len(whole)))
    filling = data.draw(st.sampled_from([b"", b"\x00", b"\xf1op1"]))
    read = SegmentContents(whole[:start] + filling * (stop - start) + whole[stop:])
    untouched = [
        payload
        for payload, begin, end in zip(payloads, [0, *ends], ends, strict=False)
        if end <= start or begin >= stop
    ]
    assert is_within(untouched, read.payloads)
    assert is_within(read.payloads, payloads)


def is_within(some: list[bytes], all_of: list[bytes]) -> bool:
    """Return whether `some` is `all_of` with elements removed, in the same order."""
    rest = iter(all_of)
    return all(any(item == expected for item in rest) for expected in some)


@EXAMPLES
@given(st.binary(max_size=400))
def test_any_bytes_are_read_without_an_error(data: bytes) -> None:
    read = SegmentContents(data)
    assert len(data) == read.damaged + sum(HEADER + len(payload) for payload in read.payloads)


def test_a_stretch_of_damage_longer_than_a_read_is_crossed() -> None:
    first, last = encode_frame(0, b"first"), encode_frame(5, b"last")
    read = SegmentContents(first + b"\x00" * (CHUNK + CHUNK // 2) + last)
    assert read.payloads == [b"first", b"last"]
    assert read.damaged == CHUNK + CHUNK // 2
    assert read.missing == 4
