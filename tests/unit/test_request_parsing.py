"""Refused requests and their reasons. A refusal never repeats the data of a request."""

import contextlib
import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudops.schema import Feature, FeatureSchema
from services.inference.reading.faults import REPORTED_FAULTS, FieldFault, InvalidBodyError
from services.inference.reading.transactions import Reader, TransactionReader

SCHEMA = FeatureSchema(
    "bank",
    "fraud",
    "seen_at",
    "spent",
    tuple(Feature(name, -10.0, 10.0) for name in ("age", "class", "__class__", "spent")),
)
READER = TransactionReader(SCHEMA)
ROW: dict[str, Any] = {"age": 1.5, "class": -2, "__class__": 0, "spent": 10}
CARD = "4111111111111111"


class Open(msgspec.Struct):
    """A kind that skips unknown fields."""

    known: int = 0


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


@pytest.mark.parametrize(
    "more",
    [
        '"age":1',
        '"age":"x"',
        '"\\u0061ge":1',
        '"transaction_id":"a","transaction_id":"b"',
        '"transaction_id":null,"transaction_id":"b"',
        '"transaction_id":"a","transaction_id":null',
        '"entity_key":null,"entity_key":null',
        '"entity_key":null,"\\u0065ntity_key":null,"transaction_id":"null"',
    ],
)
@pytest.mark.parametrize("before", [False, True])
def test_a_repeated_key_is_refused_wherever_it_stands(more: str, before: bool) -> None:
    row = '"age":1.5,"class":-2,"__class__":0,"spent":10'
    (fault,) = refused(f"{{{more},{row}}}" if before else f"{{{row},{more}}}")
    field = next(name for name in ("entity_key", "transaction_id", "age") if name[1:] in more)
    assert fault == FieldFault(field=field, reason="must be given once", code="repeated_key")


def test_ids_that_are_null_are_absent_and_no_repetition() -> None:
    for ids in (
        '"entity_key":null',
        '"entity_key":null,"transaction_id":null',
        '"entity_key":"k","transaction_id":null',
        '"transaction_id":"\\u0074-1"',
    ):
        READER.read(f'{{{ids},"age":1.5,"class":-2,"__class__":0,"spent":10}}'.encode())


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
        (b"NaN", "must be an object"),
        (b'{"age":1,}', "is not valid JSON (byte 9)"),
        (b'{"age":1', "is not valid JSON (byte 8)"),
        (b'{"age":01}', "is not valid JSON (byte 8)"),
        (b'{"age":NaN,}', "is not valid JSON (byte 11)"),
        (b'\xef\xbb\xbf{"age":1,}', "is not valid JSON (byte 12)"),
        (b"\xef\xbb\xbf\xef\xbb\xbf{}", "is not valid JSON (byte 3)"),
        (b'{"age":"\\ud800"}', "is not valid JSON (byte 16)"),
        (b'{"\\ud800":1}', "is not valid JSON (byte 12)"),
        (b'{"a":%b}' % (b"[" * 65 + b"]" * 65), "is nested too deeply"),
        (b"{%b}" % b",".join(b'"a":1' for _ in range(1001)), "has more than 1000 fields"),
        (b" " * (64 << 10) + b"{}", "is larger than 64 KiB"),
        (b"[" * 30_000, "is nested too deeply"),
        (b'{"a":' * 10_000, "is nested too deeply"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_refused_as_a_whole(body: bytes, reason: str) -> None:
    (fault,) = refused(body)
    assert (fault.field, fault.reason) == (None, reason)
    assert fault.code not in (None, "other")


def test_a_byte_order_mark_is_skipped_once() -> None:
    mark, row = b"\xef\xbb\xbf", json.dumps(ROW).encode()
    assert READER.read(mark + row) == READER.read(row)
    assert refused(mark) == [FieldFault(reason="is empty", code="empty")]


@pytest.mark.parametrize(
    ("body", "server"),
    [
        ('{"instances":[[1,2]]}', "KServe V1 (instances): send an object"),
        ('{"age":1,"instances":[{"age":NaN}]}', "KServe V1 (instances): send an object"),
        ('{"dataframe_split":{"columns":["age"]}}', "MLflow (dataframe_split): send an object"),
        ('{"dataframe_records":[{"age":1}]}', "MLflow (dataframe_records): send an object"),
        ('{"id":"1","inputs":[]}', "the Open Inference Protocol (inputs): send it to /v2/models/"),
    ],
)
def test_forms_of_other_servers_are_named(body: str, server: str) -> None:
    (fault,) = refused(body)
    assert (fault.field, fault.code) == (None, "foreign_form")
    assert fault.reason.startswith(f"has the form of {server}")
    assert fault.reason.endswith("send an object with a number for each feature")


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


def test_no_more_faults_are_reported_than_the_limit() -> None:
    assert (
        len(refused(json.dumps({f"f{index % 9}_{'x' * (index // 9)}": 1 for index in range(200)})))
        == REPORTED_FAULTS
    )


def test_a_field_of_a_newer_release_may_not_be_nested_without_limit() -> None:
    """A reader that skips unknown fields still walks through their values."""

    with pytest.raises(InvalidBodyError, match="nested too deeply"):
        Reader(Open).read(b'{"later":' + b"[" * 9000 + b"]" * 9000 + b"}")


def test_a_reader_that_skips_unknown_fields_refuses_repeated_keys_too() -> None:
    assert Reader(Open).read(b'{"later":[1,"\\"",{"a":1,"a":2}],"known":3}') == Open(3)
    for body, field in (
        (b'{"known":1,"later":2,"known":1}', "known"),
        (b'{"later":1,"\\u006cater":{"a":[]},"known":1}', "later"),
        (b'{"4111111111111111":1,"4111111111111111":2}', None),
    ):
        with pytest.raises(InvalidBodyError) as refusal:
            Reader(Open).read(body)
        (fault,) = refusal.value.faults
        assert (fault.field, fault.code) == (field, "repeated_key")


X = np.array([[1.0, -2, 0, 10], [1, 11, 0, math.nan], [1, 1, 1, 1], [-math.inf, 1, 1, 1]])


def test_a_matrix_has_the_faults_of_its_rows() -> None:
    assert READER.faults_of(X[[0, 2]]) == []
    assert READER.faults_of(X[1:2]) == [
        FieldFault(index=0, field="class", reason="must be at most 10", code="above_maximum"),
        FieldFault(index=0, field="spent", reason="must be a finite number", code="not_finite"),
    ]
    assert [(fault.index, fault.field, fault.code) for fault in READER.faults_of(X)] == [
        (1, "class", "above_maximum"),
        (3, "age", "not_finite"),
    ]
    assert READER.faults_of(np.full((1, 4), -11.0))[0].reason == "must be at least -10"
    assert len(READER.faults_of(np.full((500, 4), -11.0))) == REPORTED_FAULTS
    assert READER.faults_of(np.empty((0, 4))) == []
    for shape in ((4,), (1, 3), (1, 4, 1)):
        with pytest.raises(ValueError, match="expected an array of shape"):
            READER.faults_of(np.zeros(shape))


def test_transactions_from_a_matrix_are_those_from_json() -> None:
    ids = [("t-1", None), (None, "k")]
    assert READER.transactions(X[[0, 2]], ids) == [
        READER.read(
            json.dumps(
                dict(zip(ROW, row, strict=True)) | {"transaction_id": one, "entity_key": other}
            ).encode()
        )
        for row, (one, other) in zip(X[[0, 2]].tolist(), ids, strict=True)
    ]
    with pytest.raises(ValueError):
        READER.transactions(X, ids)
