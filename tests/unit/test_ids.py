import time

import pytest

from fraudops.ids import timestamp_ms, uuid7


def test_an_id_carries_the_millisecond_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    identifier = uuid7()
    assert before <= timestamp_ms(identifier) <= time.time_ns() // 1_000_000


def test_ids_are_canonical_unique_and_sort_by_time() -> None:
    ids = [uuid7() for _ in range(1_000)]
    assert len(set(ids)) == 1_000
    moments = [timestamp_ms(identifier) for identifier in sorted(ids)]
    assert moments == sorted(moments)
    assert all(
        len(identifier) == 36 and identifier[14] == "7" and identifier == identifier.lower()
        for identifier in ids
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4c1b0f6e-1111-4111-8111-111111111111",
        "0190a1b2c3d47abc8def0123456789ab",
        "zzzzzzzz-zzzz-7zzz-8zzz-zzzzzzzzzzzz",
    ],
)
def test_an_id_that_is_not_a_uuid7_has_no_timestamp(text: str) -> None:
    with pytest.raises(ValueError):
        timestamp_ms(text)
