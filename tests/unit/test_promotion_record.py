"""The target of a new pod.

It is the target of the pod's template while the record reserves it, and otherwise the current
model.
"""

import pytest

from fraudops.promotion.pod_rules import destination
from fraudops.promotion.serving_record import (
    EMPTY,
    Reservation,
    ServingEntry,
    ServingRecord,
    ServingTarget,
    decode,
    encode,
)

DIGESTS = {version: version * 64 for version in ("1", "2")}
NEW = ServingTarget(5, "2", DIGESTS["2"])


def record(reserved: ServingTarget | None) -> ServingRecord:
    current = ServingEntry(
        epoch=4,
        version="1",
        digest=DIGESTS["1"],
        schema_fingerprint="f",
        by="a",
        act="promote",
        at="then",
    )
    if reserved is None:
        return ServingRecord(current=current)
    reservation = Reservation(
        epoch=reserved.epoch,
        version=reserved.version,
        digest=reserved.digest,
        schema_fingerprint="f",
        strategy="rollout",
        by="b",
        act="promote",
        at="now",
    )
    return ServingRecord(current=current, reserved=reservation)


def test_a_pod_created_for_the_reserved_target_takes_it() -> None:
    assert destination(record(NEW), NEW) == NEW


@pytest.mark.parametrize(
    "reserved",
    [None, ServingTarget(6, "2", DIGESTS["2"]), ServingTarget(5, "1", DIGESTS["1"])],
    ids=["nothing", "another epoch", "another model"],
)
def test_a_pod_created_for_another_target_takes_the_current_model(
    reserved: ServingTarget | None,
) -> None:
    assert destination(record(reserved), NEW) == ServingTarget(4, "1", DIGESTS["1"])


def test_a_pod_created_without_a_target_ignores_a_reservation() -> None:
    assert destination(record(NEW), None) == ServingTarget(4, "1", DIGESTS["1"])
    assert destination(EMPTY, NEW) is None


def test_a_written_target_is_read_back() -> None:
    assert ServingTarget.parse(str(NEW)) == NEW


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5/2",
        "x/2/" + "2" * 64,
        "5//" + "2" * 64,
        "5/2/short",
        "5/2/" + "2" * 64 + "/more",
        "1" * 16 + "/2/" + "2" * 64,
    ],
)
def test_a_malformed_target_is_none(text: str) -> None:
    assert ServingTarget.parse(text) is None


def test_the_epoch_after_a_hand_written_one_fits_into_an_annotation() -> None:
    highest = ServingTarget.parse("9" * 14 + "/2/" + "2" * 64)
    assert highest is not None
    after = ServingTarget(highest.epoch + 1, "2", DIGESTS["2"])
    assert ServingTarget.parse(str(after)) == after


def test_a_record_of_a_later_release_is_read() -> None:
    """During an upgrade, pods of both releases read one record."""
    written = encode(record(None)).replace(
        b'{"current"', b'{"a_field_of_a_later_release":1,"current"'
    )
    assert b"later_release" in written
    later = decode(written)
    assert later.current == record(None).current
    assert later.unknown == {"a_field_of_a_later_release": 1}
