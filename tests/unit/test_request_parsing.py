"""Refused requests and their reasons. A refusal never repeats the data of a request."""

import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudops.schema import Feature, FeatureSchema
from services.inference.reading.faults import REPORTED_FAULTS, FieldFault, InvalidBodyError
from services.inference.reading.labels import LabelEntry
from services.inference.reading.rows import BATCH_ROWS, RowList
from services.inference.reading.transactions import Reader, TransactionReader

SCHEMA = FeatureSchema(
    "bank",
    "fraud",
    "seen_at",
    "spent",
    tuple(Feature(name, -10.0, 10.0) for name in ("age", "class", "__class__", "spent")),
)
ROWS = RowList("transactions")
READER = TransactionReader(SCHEMA)
ROW: dict[str, Any] = {"age": 1.5, "class": -2, "__class__": 0, "spent": 10}
CARD = "4111111111111111"


def refused(body: bytes | str) -> list[FieldFault]:
    with pytest.raises(InvalidBodyError) as refusal:
        READER.read(body if isinstance(body, bytes) else body.encode())
    return list(refusal.value.faults)


def reasons(body: bytes | str) -> dict[str | None, str]:
    return {fault.field: fault.reason for fault in refused(body)}


def test_a_transaction_is_read_in_the_schemas_order_whatever_its_columns_are_called() -> None:
    transaction = READER.read(json.dumps(dict(reversed(ROW.items()))).encode())
    assert msgspec.structs.astuple(transaction) == (1.5, -2.0, 0.0, 10.0, None, None)
    assert msgspec.json.decode(msgspec.json.encode(transaction)) == ROW


def test_the_two_ids_are_optional_and_not_features() -> None:
    transaction = READER.read(
        json.dumps(ROW | {"transaction_id": "t-1:a.b_c", "entity_key": None}).encode()
    )
    assert (transaction.transaction_id, transaction.entity_key) == ("t-1:a.b_c", None)
    assert msgspec.structs.astuple(transaction)[: READER.features] == (1.5, -2.0, 0.0, 10.0)


def test_the_last_of_two_equal_keys_counts() -> None:
    assert (
        msgspec.structs.astuple(
            READER.read(b'{"age":9,"age":1,"class":0,"__class__":0,"spent":0}')
        )[0]
        == 1.0
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("true", "must be a number, not true or false"),
        ('"1"', "must be a number, not a string"),
        ("null", "must be a number, not null"),
        ("[1]", "must be a number, not a list"),
        ("{}", "must be a number, not an object"),
        ("NaN", "must be a finite number"),
        ("Infinity", "must be a finite number"),
        ("-Infinity", "must be a finite number"),
        ("1e999", "must be a finite number"),
        ("1" + "0" * 5000, "must be a finite number"),
        ("10.0001", "must be at most 10"),
        ("-11", "must be at least -10"),
    ],
)
def test_a_bad_value_is_refused_by_field_and_reason(value: str, reason: str) -> None:
    assert reasons(f'{{"age":{value},"class":0,"__class__":0,"spent":0}}') == {"age": reason}


@pytest.mark.parametrize("value", ["", "a b", "x" * 65, "naïve", "a\n", "<script>"])
def test_an_id_of_other_characters_is_refused(value: str) -> None:
    assert reasons(json.dumps(ROW | {"entity_key": value})) == {
        "entity_key": "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"
    }


def test_every_fault_of_a_body_is_named() -> None:
    assert reasons('{"age":true,"spent":99,"extra":1}') == {
        "age": "must be a number, not true or false",
        "class": "is missing",
        "__class__": "is missing",
        "spent": "must be at most 10",
        "extra": "is not a field of this schema",
    }


@pytest.mark.parametrize("name", [CARD, f"card_{CARD}", "Jane Doe", "x" * 33, "4111-1111", ""])
def test_an_unknown_field_that_could_be_data_is_not_named(name: str) -> None:
    with pytest.raises(InvalidBodyError) as refusal:
        READER.read(json.dumps(ROW | {name: 1}).encode())
    assert [fault.field for fault in refusal.value.faults] == [None]
    assert not name or name not in str(refusal.value)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"\xff\xfe{\x00", "is not UTF-8"),
        (b'{"age":"\xff"}', "is not UTF-8"),
        (b"[]", "must be an object"),
        (b"null", "must be an object"),
        (b'{"age":1,}', "is not valid JSON (character 9)"),
        (b'{"age":1', "is not valid JSON (character 8)"),
        (b'{"age":01}', "is not valid JSON (character 8)"),
        (b"\xef\xbb\xbf{}", "is not valid JSON (character 0)"),
        (b"[" * 30_000, "is nested too deeply"),
        (b'{"a":' * 10_000, "is nested too deeply"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused_as_a_whole(body: bytes, reason: str) -> None:
    assert refused(body) == [FieldFault(reason=reason)]


@given(
    st.dictionaries(
        st.sampled_from(["age", "class", "spent", "transaction_id", "entity_key", "other"]),
        st.sampled_from([CARD, f"{CARD}.5", [CARD], {CARD: CARD}]),
    )
)
def test_no_refusal_repeats_a_value(sent: dict[str, Any]) -> None:
    try:
        READER.read(json.dumps(sent).encode())
    except InvalidBodyError as refusal:
        message = str(refusal) + msgspec.json.encode(refusal.faults).decode()
        assert "4111" not in message


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidBodyError):
        READER.read(body)


def test_rows_keep_their_order_and_the_body_must_hold_nothing_else() -> None:
    assert [bytes(row) for row in ROWS.split(b'{"transactions":[1, {"a":2},"x"]}')] == [
        b"1",
        b'{"a":2}',
        b'"x"',
    ]
    for body, field, reason in [
        (b"{}", "transactions", "is missing"),
        (b'{"transactions":{}}', "transactions", "must be a list, not an object"),
        (b'{"transactions":[]}', "transactions", "must hold at least one row"),
        (b'{"transactions":[1],"more":1}', "more", "is not a field of this schema"),
        (
            json.dumps({"transactions": [1] * (BATCH_ROWS + 1)}).encode(),
            "transactions",
            "must hold at most 10000 rows",
        ),
    ]:
        with pytest.raises(InvalidBodyError) as refusal:
            ROWS.split(body)
        assert [(fault.field, fault.reason) for fault in refusal.value.faults] == [(field, reason)]


def test_a_row_with_nan_is_a_fault_of_its_own_field_not_of_the_whole_body() -> None:
    rows = ROWS.split(b'{"transactions":[{"age":1},{"age": NaN},{"age":-Infinity}]}')
    assert [READER.faults(row)[0].reason for row in rows[1:]] == ["must be a finite number"] * 2


def test_a_huge_row_is_refused_without_being_parsed() -> None:
    (row,) = ROWS.split(json.dumps({"transactions": [{"age": "x" * 70_000}]}).encode())
    assert READER.faults(row) == [FieldFault(reason="is larger than 64 KiB")]


def test_no_more_faults_are_reported_than_the_limit() -> None:
    assert (
        len(refused(json.dumps({f"f{index % 9}_{'x' * (index // 9)}": 1 for index in range(200)})))
        == REPORTED_FAULTS
    )


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
        Reader(LabelEntry).read(json.dumps(LABEL | change).encode())
    assert [(fault.field, fault.reason) for fault in refusal.value.faults] == [(field, reason)]


def test_a_field_of_a_newer_release_may_not_be_nested_without_limit() -> None:
    """A reader that skips unknown fields still walks through their values."""

    class Open(msgspec.Struct):
        known: int = 0

    with pytest.raises(InvalidBodyError, match="nested too deeply"):
        Reader(Open).read(b'{"later":' + b"[" * 9000 + b"]" * 9000 + b"}")
