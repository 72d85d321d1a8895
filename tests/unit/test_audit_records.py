from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from fraudops.audit.records import (
    LabelRecord,
    Prediction,
    Record,
    decode,
    encode,
    is_newer_kind,
    new_label,
)
from tests.support.audit_records import prediction, refusals

MOMENT = datetime(2026, 11, 2, 12, 30, tzinfo=UTC)


def test_a_prediction_comes_back_as_it_was_written() -> None:
    record = prediction(
        transaction_id="t-1", challenger_version="4", challenger_probability=0.25, client="shop"
    )
    assert decode(encode(record)) == record


def test_features_may_be_a_struct_and_come_back_by_name() -> None:
    features = msgspec.defstruct("Features", [("V1", float), ("Amount", float)])(1.0, 2.0)
    decoded = decode(encode(prediction(features=features)))
    assert isinstance(decoded, Prediction)
    assert decoded.features == {"V1": 1.0, "Amount": 2.0}


def test_a_label_comes_back_as_it_was_written() -> None:
    label = new_label(1, MOMENT, "analyst", transaction_id="t-1", client="shop")
    assert decode(encode(label)) == label


def test_a_count_of_refusals_comes_back_as_it_was_written_and_is_of_a_known_kind() -> None:
    for count in (refusals(), refusals(model_version=None)):
        assert decode(encode(count)) == count
        assert not is_newer_kind(encode(count))


@pytest.mark.parametrize(
    "record", [prediction(), new_label(1, MOMENT, "analyst", transaction_id="t-1")]
)
def test_a_record_of_the_release_before_is_one_without_a_client(record: Record) -> None:
    earlier = msgspec.msgpack.decode(encode(record))[:-1]
    assert decode(msgspec.msgpack.encode(earlier)) == record


def test_the_id_of_a_label_depends_on_neither_client_nor_arrival() -> None:
    arrived = datetime(2026, 11, 3, 1, tzinfo=timezone(timedelta(hours=5)))
    label = new_label(
        1, MOMENT, "analyst", transaction_id="t-1", client="import:1", received_at=arrived
    )
    assert label.id == new_label(1, MOMENT, "analyst", transaction_id="t-1").id
    assert (label.client, label.received_at) == ("import:1", arrived)
    assert label.received_at.tzinfo is UTC


def test_the_same_label_again_has_the_same_id() -> None:
    first = new_label(1, MOMENT, "analyst", transaction_id="t-1")
    assert new_label(1, MOMENT, "analyst", transaction_id="t-1").id == first.id
    assert (
        new_label(
            1, MOMENT.astimezone(timezone(timedelta(hours=5))), "analyst", transaction_id="t-1"
        ).id
        == first.id
    )


@pytest.mark.parametrize(
    "other",
    [
        new_label(0, MOMENT, "analyst", transaction_id="t-1"),
        new_label(1, MOMENT + timedelta(microseconds=1), "analyst", transaction_id="t-1"),
        new_label(1, MOMENT, "chargeback", transaction_id="t-1"),
        new_label(1, MOMENT, "analyst", transaction_id="t-2"),
        new_label(1, MOMENT, "analyst", prediction_id="t-1"),
    ],
)
def test_another_label_has_another_id(other: LabelRecord) -> None:
    assert other.id != new_label(1, MOMENT, "analyst", transaction_id="t-1").id


def test_a_record_of_a_later_release_with_more_fields_is_still_read() -> None:
    fields = msgspec.msgpack.decode(encode(prediction()))
    assert decode(msgspec.msgpack.encode([*fields, "a field that we do not know"])) == decode(
        msgspec.msgpack.encode(fields)
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93\x01\x02\x03",
        msgspec.msgpack.encode(["elephant", 1]),
        msgspec.msgpack.encode(["prediction", 1]),
    ],
)
def test_data_that_is_not_a_record_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(data)
