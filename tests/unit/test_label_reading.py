"""Labels that are refused, and their times."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from services.inference.reading.faults import FieldFault, InvalidBodyError
from services.inference.reading.labels import LabelReader

LABEL: dict[str, Any] = {
    "transaction_id": "t-1",
    "label": 1,
    "labelled_at": "2026-01-31T12:00:00+02:00",
    "source": "chargeback",
}


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"label": 2}, "label", "must be at most 1"),
        ({"label": True}, "label", "must be an integer, not true or false"),
        ({"label": 0.5}, "label", "must be an integer, not a number"),
        ({"label": 1.0}, "label", "must be a whole number, without a decimal point"),
        ({"labelled_at": 5}, "labelled_at", "must be a date and time, not an integer"),
        (
            {"labelled_at": "2026-01-31T12:00:00"},
            "labelled_at",
            "must be a date and time with its offset, such as 2026-01-31T12:00:00Z",
        ),
        (
            {"labelled_at": "yesterday"},
            "labelled_at",
            "must be a date and time with its offset, such as 2026-01-31T12:00:00Z",
        ),
        ({"source": "two words"}, "source", "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"),
        (
            {"transaction_id": None},
            None,
            "must name the transaction by either prediction_id or transaction_id",
        ),
        (
            {"prediction_id": "01a20421-f1ac-7787-bb90-3e64b77a3937"},
            None,
            "must name the transaction by either prediction_id or transaction_id",
        ),
        ({"prediction_id": "not one", "transaction_id": None}, "prediction_id", "must be a UUID"),
    ],
)
def test_a_bad_label_is_refused_by_field_and_reason(
    change: dict[str, Any], field: str | None, reason: str
) -> None:
    with pytest.raises(InvalidBodyError) as refusal:
        LabelReader().read(json.dumps(LABEL | change).encode())
    assert [(fault.field, fault.reason) for fault in refusal.value.faults] == [(field, reason)]


def test_an_integer_of_5000_digits_is_a_fault_of_its_field() -> None:
    body = json.dumps(LABEL).replace('"label": 1', '"label": ' + "9" * 5000)
    with pytest.raises(InvalidBodyError, match="label must be a finite number"):
        LabelReader().read(body.encode())


@pytest.mark.parametrize(
    "more", ['"label":0', '"source":"x"', '"prediction_id":null,"prediction_id":null']
)
def test_a_repeated_key_of_a_label_is_refused(more: str) -> None:
    body = json.dumps(LABEL)[:-1] + f",{more}}}"
    with pytest.raises(InvalidBodyError, match="must be given once"):
        LabelReader().read(body.encode())
    assert not LabelReader().read_list(f"[{body}]".encode())


EXTREME = "must be within the years 1970 to 9999 of UTC"
FORM = "must be a date and time with its offset"


@pytest.mark.parametrize(
    ("moment", "reason"),
    [
        ("9999-12-31T23:59:59-12:00", EXTREME),
        ("0001-01-01T00:00:00+12:00", EXTREME),
        ("1970-01-01T00:59:59+01:00", EXTREME),
        ("1969-12-31T23:59:59.999999Z", EXTREME),
        ("0000-01-01T00:00:00Z", FORM),
        ("2016-12-31T23:59:60Z", FORM),
        ("2026-01-31T12:00:00+24:00", FORM),
    ],
)
def test_extreme_times_are_faults_of_their_label(moment: str, reason: str) -> None:
    with pytest.raises(InvalidBodyError) as refusal:
        LabelReader().read(json.dumps(LABEL | {"labelled_at": moment}).encode())
    (fault,) = refusal.value.faults
    assert (fault.field, fault.code) == ("labelled_at", "bad_time")
    assert fault.reason.startswith(reason)


def test_the_time_of_a_label_is_in_utc_after_it_is_read() -> None:
    for moment, expected in (
        ("2026-01-31T12:00:00+23:59", datetime(2026, 1, 30, 12, 1, tzinfo=UTC)),
        ("1970-01-01T00:00:00z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2026-01-31t12:00:00.1234567890123-00:00", datetime(2026, 1, 31, 12, 0, 0, 123457, UTC)),
    ):
        label = LabelReader().read(json.dumps(LABEL | {"labelled_at": moment}).encode())
        assert (label.labelled_at, label.labelled_at.tzinfo) == (expected, UTC)


def test_a_label_after_now_is_refused() -> None:
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    reader = LabelReader(lambda: now)
    for moment in ("2026-01-31T12:05:00Z", "2026-01-31T13:05:00+01:00"):
        body = json.dumps(LABEL | {"labelled_at": moment}).encode()
        assert reader.read_list(b"[%b]" % body) == [reader.read(body)]
    late = json.dumps(LABEL | {"labelled_at": "2026-01-31T12:05:00.000001Z"}).encode()
    with pytest.raises(InvalidBodyError) as refusal:
        reader.read(late)
    assert refusal.value.faults == (
        FieldFault(
            field="labelled_at",
            reason="must be at most 300 s after the service's clock",
            code="future",
        ),
    )
    assert not reader.read_list(b"[%b]" % late)
