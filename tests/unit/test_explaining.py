"""The decoder that decides and the one that explains have one opinion of every body."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import example, given, settings

from fraudops.schema import Feature, FeatureSchema
from services.inference.reading.explaining import Explainer
from services.inference.reading.faults import (
    REPORTED_FAULTS,
    FaultError,
    FieldFault,
    InvalidBodyError,
    shown_name,
)
from services.inference.reading.labels import LabelReader
from services.inference.reading.members import members
from services.inference.reading.transactions import Reader, TransactionReader
from tests.support.bodies import objects, spliced
from tests.support.figures import PROOF

CASES = 100_000 if PROOF else 2_000
CARD = "4111111111111111"


class Asked(msgspec.Struct, frozen=True):
    """A kind that skips unknown fields, as that of /reload."""

    epoch: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seconds: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 1


SCHEMA = FeatureSchema(
    "bank", "fraud", "seen_at", "spent", tuple(Feature(name, -10.0, 10.0) for name in ("a", "V1"))
)
TRANSACTION = {"a": "1.5", "V1": "-2", "transaction_id": '"t-1"', "entity_key": "null"}
LABEL = {
    "label": "1",
    "labelled_at": '"2026-01-31T12:00:00+02:00"',
    "source": '"chargeback"',
    "transaction_id": '"t-1"',
    "prediction_id": "null",
}
READERS: dict[str, tuple[Reader[Any], Mapping[str, str]]] = {
    "transaction": (TransactionReader(SCHEMA), TRANSACTION),
    "label": (LabelReader(lambda: datetime(2026, 6, 1, tzinfo=UTC)), LABEL),
    "asked": (Reader(Asked), {"epoch": "3", "seconds": "2.5"}),
}


def keys_repeated(body: bytes) -> bool:
    """Return whether an independent parser sees a key twice on the first level."""
    levels: list[bool] = []

    def seen(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        levels.append(len(dict(pairs)) < len(pairs))
        return dict(pairs)

    try:
        json.loads(body, object_pairs_hook=seen)
    except ValueError:
        # A number of more than 4,300 digits in a field that is skipped.
        return False
    return bool(levels and levels[-1])


def agree(kind: str, body: bytes) -> None:
    reader, _ = READERS[kind]
    explainer = Explainer(reader.kind)
    content = body.removeprefix(b"\xef\xbb\xbf")
    read = value_or_refusal(reader, body)
    if isinstance(read, InvalidBodyError):
        assert read.faults
        for fault in read.faults:
            assert fault.code
            # The fault is known, not only the fact of the refusal.
            assert fault.reason != "is not accepted"
        text = msgspec.json.encode(read.faults).decode() + str(read)
        assert CARD not in text
        assert text.encode()
    else:
        assert explainer.found(content) == []
        assert msgspec.json.decode(content, type=reader.kind) == read
        assert not keys_repeated(content)


def value_or_refusal(reader: Reader[Any], body: bytes) -> Any:
    try:
        return reader.read(body)
    except InvalidBodyError as refusal:
        return refusal


@pytest.mark.parametrize("kind", READERS)
def test_the_explanation_never_raises_and_never_accepts(kind: str) -> None:
    @settings(max_examples=CASES // len(READERS))
    @given(spliced(objects(READERS[kind][1])))
    @example(b'{"a":1,"V1":"\\ud800"}')
    @example(b'{"a":1,"V1":2,"\\ud800":1}')
    @example(b'{"a":1,"V1":2,"\\u0056\\u0031":2}')
    @example(b'{"a":NaN,"V1":"NaN","entity_key":": NaN ,"}')
    @example(b'{"epoch":1,"later":%b}' % (b"[" * 64 + b"]" * 64))
    @example(b'{"epoch":1,"later":%b}' % (b"[" * 65 + b"]" * 65))
    @example(b'{"epoch":1,"later":"\xff"}')
    @example(b'{"epoch":1,"later":[NaN]}')
    def each(body: bytes) -> None:
        agree(kind, body)

    each()


def test_a_refusal_that_no_rule_explains_is_a_fault_too() -> None:
    faults = Explainer(Asked).faults(b'{"epoch":1}', msgspec.ValidationError("quotes 4111"))
    assert faults == [FieldFault(reason="is not accepted", code="other")]


@pytest.mark.parametrize(
    "raised", [msgspec.DecodeError(), ValueError(), OverflowError(), RecursionError(), TypeError()]
)
def test_an_error_within_the_explanation_is_a_fault(
    raised: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(Explainer, "found", fail)
    assert Explainer(Asked).faults(b"{}") == [FieldFault(reason="is not accepted", code="other")]


def test_the_members_of_an_object_are_all_found() -> None:
    body = b' {"a":[{"b":"]}\\""},[]] ,"\\u0061" : "x,\\\\" , "c":NaN,"d":{},"e":-1E+2}'
    assert members(body) == [
        ("a", b'[{"b":"]}\\""},[]]'),
        ("a", b'"x,\\\\"'),
        ("c", b"NaN"),
        ("d", b"{}"),
        ("e", b"-1E+2"),
    ]
    assert members(b"{ }") == []


def test_the_members_of_an_object_hold_a_thousand_lists_and_objects() -> None:
    pair = b'"a":[{}],'
    assert len(members(b"{%b}" % (pair * 500))) == 500
    for more in (b'"a":[]', b'"a":{}'):
        with pytest.raises(FaultError) as error:
            members(b"{%b}" % (pair * 500 + more))
        assert error.value.fault.code == "too_large"


def test_of_many_faults_only_the_first_are_found() -> None:
    kind = msgspec.defstruct("Wide", [(f"v{n}", float) for n in range(500)])
    assert len(Explainer(kind).faults(b"{}")) == REPORTED_FAULTS
    (first,) = Explainer(kind).faults(b"{}", most=1)
    assert first.field == "v0"


def test_a_long_name_is_not_searched_for_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []

    class Counting:
        def fullmatch(self, name: str) -> None:
            searched.append(len(name))

    monkeypatch.setattr("services.inference.reading.faults._SHOWN_NAME", Counting())
    assert [shown_name("x" * length) for length in (32, 33, 65_000)] == [None] * 3
    assert searched == [32]


@pytest.mark.parametrize(
    ("value", "reason", "code"),
    [
        ('{"seconds":0}', "must be above 0", "below_minimum"),
        ('{"seconds":3601}', "must be at most 3600", "above_maximum"),
        ('{"seconds":1e999}', "must be a finite number", "not_finite"),
        ('{"seconds":[NaN]}', "must be a number, not a list", "wrong_type"),
        ('{"epoch":0}', "must be at least 1", "below_minimum"),
        ('{"epoch":"x"}', "must be an integer, not a string", "wrong_type"),
    ],
)
def test_a_fault_has_a_code_and_a_reason(value: str, reason: str, code: str) -> None:
    (fault,) = Explainer(Asked).found(value.encode())
    assert (fault.reason, fault.code) == (reason, code)
