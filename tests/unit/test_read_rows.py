"""Lists are read in pieces, with the same rows and faults as row by row, for any body."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraudops.schema import Feature, FeatureSchema
from services.inference.reading.explaining import Explainer
from services.inference.reading.faults import REPORTED_FAULTS, FieldFault, InvalidBodyError
from services.inference.reading.labels import LABELS, LabelReader
from services.inference.reading.row_count import RowCount
from services.inference.reading.rows import BATCH_ROWS, TRANSACTIONS, RowList, read_rows
from services.inference.reading.scanning import CHUNK, RowScanner
from services.inference.reading.transactions import Reader, TransactionReader
from tests.support.bodies import lists, objects, spliced
from tests.support.figures import PROOF

SCHEMA = FeatureSchema(
    "bank", "fraud", "seen_at", "spent", tuple(Feature(name, -10.0, 10.0) for name in ("a", "b"))
)
READER = TransactionReader(SCHEMA)
ROWS = RowList("rows", most=500, piece_bytes=1)
WHOLE = msgspec.json.Decoder(
    msgspec.defstruct("Whole", [("rows", list[READER.kind])], forbid_unknown_fields=True)
)
GOOD, BAD = {"a": 1, "b": 2}, {"a": 1, "b": "4111111111111111"}
Found = list[Any] | tuple[FieldFault, ...]


class RowByRow(RowList):
    def stretches(self, body: bytes, start: int) -> Iterator[tuple[int, int]]:
        yield start, start


class ListReader(TransactionReader):
    """A reader that must not be asked for a single row."""

    def decode(self, row: bytes) -> Any:
        raise AssertionError("it is read row by row")


def read(rows: RowList, body: bytes, reader: Reader[Any] = READER) -> Found:
    async def every() -> list[Any]:
        return [
            msgspec.structs.astuple(row)
            async for chunk in read_rows(reader, rows, body)
            for row in chunk
        ]

    reading = every()
    try:
        # Without an event loop, which would take longer to start than the reading takes.
        while True:
            reading.send(None)
    except StopIteration as end:
        rows_read: list[Any] = end.value
        return rows_read
    except InvalidBodyError as refusal:
        return refusal.faults


def same(body: bytes) -> Found:
    """Read the body in pieces, row by row and as a whole, and compare the results."""
    items = read(ROWS, body)
    assert items == read(RowByRow("rows", most=500), body)
    assert (items if isinstance(items, list) else None) == whole(body)
    return items


def whole(body: bytes) -> Found | None:
    """Return the rows of a valid body as independent decoders see them, or None."""

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a repeated key")
        return dict(pairs)

    content = body.removeprefix(b"\xef\xbb\xbf")
    try:
        rows = WHOLE.decode(content).rows  # type: ignore[attr-defined]
        json.loads(content, object_pairs_hook=distinct)
    except ValueError:
        return None
    return list(map(msgspec.structs.astuple, rows)) if 0 < len(rows) <= 500 else None


def body_of(*rows: Any) -> bytes:
    return json.dumps({"rows": rows}).encode()


def test_a_usual_body_is_not_read_row_by_row() -> None:
    rows = [{"a": number / 100, "b": 1} for number in range(300)]
    for body in (
        body_of(*rows),
        json.dumps({"rows": rows}, indent=1).encode(),
        json.dumps({"rows": rows}, separators=(" , ", " : ")).encode() + b"\r\n",
    ):
        assert read(ROWS, body, ListReader(SCHEMA)) == [
            (number / 100, 1.0, None, None) for number in range(300)
        ]


def test_rows_with_some_ids_are_not_read_row_by_row() -> None:
    ids = [{"transaction_id": "t"}, {"entity_key": None}, {}]
    rows = [{"a": 1, "b": 2} | ids[number % 3] for number in range(300)]
    assert len(read(ROWS, body_of(*rows), ListReader(SCHEMA))) == 300


def test_rows_come_in_chunks_however_many_a_piece_holds() -> None:
    async def sizes() -> list[int]:
        return [
            len(chunk)
            async for chunk in read_rows(
                ListReader(SCHEMA), RowList("rows"), body_of(*[{"a": 1, "b": 2}] * (2 * CHUNK + 3))
            )
        ]

    assert asyncio.run(sizes()) == [CHUNK, CHUNK, 3]


@pytest.mark.parametrize(
    ("rows", "counted"),
    [
        ([GOOD] * 300, 300),
        # The rows behind a faulty one are examined too.
        ([BAD, *[GOOD] * 299], 300),
        ([*[GOOD] * 299, BAD], 300),
        ([*[GOOD] * 150, BAD, *[GOOD] * 149], 300),
        ([BAD] * 300, REPORTED_FAULTS),
        ([GOOD] * 600, 500),
        ([], 0),
    ],
)
def test_the_rows_that_were_read_are_counted_also_of_a_refused_body(
    rows: list[Any], counted: int
) -> None:
    async def read() -> int:
        count = RowCount()
        with contextlib.suppress(InvalidBodyError):
            async for _ in read_rows(READER, ROWS, body_of(*rows), count):
                pass
        return count.rows

    assert asyncio.run(read()) == counted


@pytest.mark.parametrize(
    "body",
    [
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2},{"a":1,"b":2},]}',
        b'{"rows":[,{"a":1,"b":2},{"a":1,"b":2},{"a":1,"b":2}]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2},,{"a":1,"b":2}]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2} {"a":1,"b":2}]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2}\x0b,{"a":1,"b":2}]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2}],"more":[{"a":1,"b":2},{"a":1,"b":2}]}',
        b'{"more":1,"rows":[{"a":1,"b":2},{"a":1,"b":2}]}',
        b'{"rows":[[{"a":1,"b":2},{"a":1,"b":2},{"a":1,"b":2}]]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2},{"a":1,"b":2}]}]}',
        b'{"rows":[{"a":1,"b":2},{"a":NaN,"b":2},{"a":1,"b":11}]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2,"transaction_id":"x},{y"},{"a":1,"b":2}]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2,"transaction_id":"\xff"},{"a":1,"b":2}]}',
        b'{"rows":[]}',
        b'{"rows": [ ] }',
        b'{"\\u0072ows":[{"a":1,"b":2}]}',
        b'{"rows":[{"a":1,"b":2}]',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2},{"a":1,"a":1,"b":2}]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2,"\\u0061":1}]}',
        b'{"rows":[{"a":1,"b":2,"entity_key":null,"entity_key":null},{"a":1,"b":2}]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2,"\xed\xa0\x80":1}]}',
        b'{"rows":[{"a":1,"b":2},{"a":1,"b":2}\r\t ,\n{"a":1,"b":2}]}',
        b'\xef\xbb\xbf{"rows":[{"a":1,"b":2}]}',
        b'{"rows":[{"a":1,"b":2}]}\n' + b" " * 200_000,
        b'{"rows":[{"a":1,"b":2}]}\n' + b" " * 200_000 + b"x",
        b'{"rows":[{"a":1,"b":2}]' + b" " * 200_000 + b"}",
        b'{"rows":[{"a":1,"b":2},' + b" " * 60_000 + b'{"a":1,"b":2}]}',
        b'{"rows":[' + b'{"a":1,"b":2}'.ljust(64 << 10) + b"]}",
        b'{"rows":[{"a":1,"b":2' + b" " * ((64 << 10) - 14) + b"}]}",
        b"",
        b'"rows":[{"a":1,"b":2}]}',
        b'{"rows"[{"a":1,"b":2}]}',
        b'"rows"[{"a":1,"b":2}]}',
        b':[{"a":1,"b":2}]}',
        b'[{"a":1,"b":2}]}',
        body_of(*[{"a": 1, "b": 2}] * 501),
        body_of(*[{"a": 1, "b": 2}] * 600),
        body_of(
            *[{"a": 1, "b": 2}] * 200,
            {"a": 1},
            *[{"a": 1, "b": 2}] * 200,
            {"a": "4111111111111111", "b": 2},
        ),
    ],
)
def test_an_unusual_body_reads_as_row_by_row(body: bytes) -> None:
    same(body)


@pytest.mark.parametrize("second", [1, 2, 3])
def test_a_second_list_is_refused_after_rows_of_the_first_were_read(
    second: int,
) -> None:
    first, other = (
        json.dumps([{"a": 1, "b": 2}] * rows, separators=(",", ":")) for rows in (2, second)
    )
    assert read(ROWS, f'{{"rows":{first},"rows":{other}}}'.encode()) == (
        FieldFault(field="rows", reason="must be given once", code="repeated_key"),
    )


def test_faults_name_their_rows_after_those_that_were_read() -> None:
    rows: list[Any] = [{"a": 1, "b": 2} for _ in range(300)]
    rows[170], rows[290] = {"a": 1}, {"a": 1, "b": "x"}
    items = same(body_of(*rows))
    assert [(fault.index, fault.field) for fault in items if isinstance(fault, FieldFault)] == [
        (170, "b"),
        (290, "b"),
    ]


def test_a_row_of_more_than_64_kib_ends_the_reading() -> None:
    row = b'{"a":1,"b":2%b}' % (b" " * ((64 << 10) - 13))
    for large in (
        row[:-1] + b" }",
        b'"%b"' % (b"x" * 70_000),
        b'"%b"' % (b"x" * 200_000),
        b'{"a":[%b]}' % (b"1," * 40_000),
        b'{"a":[%b]}' % (b"1," * 90_000),
        b"1" * 200_000,
        b" " * 200_000,
    ):
        # White space around a row is no part of it.
        body = b'{"rows":[%b , %b, 5]}' % (row, large)
        assert read(RowList("rows"), body) == (
            FieldFault(index=1, reason="is larger than 64 KiB", code="too_large"),
        )


def test_broken_json_ends_the_reading_at_its_byte() -> None:
    for body, fault in (
        (b'{"rows":[5,{"a":1,},7]}', FieldFault(index=1, reason="is not valid JSON (byte 18)")),
        (b'{"rows":[5,{"a":1}x,7]}', FieldFault(index=1, reason="is not valid JSON (byte 18)")),
        (b'{"rows":[5,,7]}', FieldFault(index=1, reason="is not valid JSON (byte 11)")),
        (b'{"rows":[5,"7', FieldFault(index=1, reason="is not valid JSON (byte 13)")),
        (b'{"rows":[5,7', FieldFault(index=1, reason="is not valid JSON (byte 12)")),
    ):
        faults = read(RowList("rows"), body)
        assert faults == (
            FieldFault(index=0, reason="must be an object", code="wrong_type"),
            msgspec.structs.replace(fault, code="not_json"),
        )
    for body, byte in (
        (b'{"rows":[{"a":1,"b":2}]', 23),
        (b'{"rows":[{"a":1,"b":2}] ]', 24),
        (b'{"rows":[{"a":1,"b":2}]} }', 25),
    ):
        assert read(RowList("rows"), body) == (
            FieldFault(reason=f"is not valid JSON (byte {byte})", code="not_json"),
        )


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(
    ("start", "field", "reason"),
    [
        (b"[", None, "must be an object"),
        (b"5", None, "must be an object"),
        (b'{"rows":{', "rows", "must be a list"),
        (b'{"rows":null', "rows", "must be a list"),
        (b'{"more":1', "more", "is not a field of this schema"),
        (b'{"4111111111111111":1', None, "holds a field that this schema does not have"),
        (b'{"instances":[', None, 'has the form of KServe V1 (instances): send {"rows": [{…}, …]}'),
        (
            b'{"id":"1","inputs":[',
            None,
            "has the form of the Open Inference Protocol (inputs): send",
        ),
    ],
)
def test_a_body_without_the_list_is_refused_by_its_beginning(
    start: bytes, field: str | None, reason: str, long: bool
) -> None:
    ends = {b"[": b"]", b"{": b"}"}
    body = start + b"".join(ends.get(bytes([each]), b"") for each in reversed(start))
    body = body.replace(b"[", b"[1").replace(b'{"rows":{', b'{"rows":{"a":1')
    read_faults = read(RowList("rows"), body + b" " * (70_000 if long else 0))
    assert isinstance(read_faults, tuple)
    # A short body is explained in full, and the missing list comes first.
    first = next(fault for fault in read_faults if fault.code != "missing")
    assert (first.field, first.reason[: len(reason)]) == (field, reason)
    assert first.code not in (None, "other")


@pytest.mark.parametrize(
    "body", [b"", b" \n", b"\xef\xbb\xbf", b"\xff", b"{", b"{}", b'{"rows":5}']
)
def test_a_short_body_is_explained_as_a_whole(body: bytes) -> None:
    expected = {b"{": "is not valid JSON (byte 1)", b"{}": "is missing", b"\xff": "is not UTF-8"}
    (fault,) = read(ROWS, body)
    reason = "must be a list, not an integer" if b"5" in body else expected.get(body, "is empty")
    assert fault.reason == reason


def test_a_list_that_begins_late_is_refused() -> None:
    for body in (
        b" " * 5000 + b'{"rows":[{"a":1,"b":2}]}',
        b'{"rows":' + b" " * 5000 + b'[{"a":1,"b":2}]}',
        b'{"rows":' + b" " * 90_000 + b'[{"a":1,"b":2}]}',
    ):
        (fault,) = read(ROWS, body)
        assert fault.reason == "must begin with the list rows within 4 KiB"
    (fault,) = read(ROWS, b" " * 90_000)
    assert fault.reason == "begins with more than 4 KiB of white space"


def test_nothing_after_row_10_001_is_scanned() -> None:
    row = b'{"a":1,"b":2}'
    for rest in (b"{}]}", b'"' * 1000, row * 2000, b"," + b"[" * 1000, b""):
        body = b'{"transactions":[%b,%b' % (b",".join([row] * BATCH_ROWS), row + b"," + rest)
        assert read(TRANSACTIONS, body) == (
            FieldFault(
                field="transactions", reason="must hold at most 10000 rows", code="too_many_rows"
            ),
        )
    assert len(read(TRANSACTIONS, b'{"transactions":[%b]}' % b",".join([row] * BATCH_ROWS))) == (
        BATCH_ROWS
    )


def test_nothing_after_a_hundred_faulty_rows_is_scanned() -> None:
    for rows in (200, 10_000):
        body = b'{"rows":[%b]}' % b",".join([b"5"] * rows)
        scanner = RowScanner(READER, "rows", BATCH_ROWS, body, 9, 0)
        assert [chunk for chunk in scanner.slices() if chunk] == []
        assert [fault.index for fault in scanner.faults] == list(range(REPORTED_FAULTS))


def test_few_rows_are_explained_between_two_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    explained: list[int] = []
    found = Explainer.faults

    def faults(self: Explainer, row: bytes, *more: Any) -> list[FieldFault]:
        explained.append(len(row))
        return found(self, row, *more)

    monkeypatch.setattr(Explainer, "faults", faults)
    for row in (b"5", b'{"c":[%b0]}' % (b"[]," * 300), b'{"c":"%b"}' % (b"x" * 5000)):
        body = b'{"rows":[%b]}' % b",".join([row] * 200)
        scanner = RowScanner(READER, "rows", BATCH_ROWS, body, 9, 0)
        for _ in scanner.slices():
            assert len(explained) <= 16
            assert sum(explained) <= (4 << 10) + len(row)
            explained.clear()
        assert len(scanner.faults) == REPORTED_FAULTS


def test_a_row_of_very_many_lists_ends_the_reading() -> None:
    for inside in (b"[],", b"{},", b'"",[],', b'{"x":0},'):
        for row in (b'{"c":[%b0]}' % (inside * 1001), b"[%b0]" % (inside * 1001)):
            assert read(RowList("rows"), b'{"rows":[{"a":1,"b":2},%b, 5]}' % row) == (
                FieldFault(
                    index=1,
                    reason="has more than 1000 lists and objects inside",
                    code="too_large",
                ),
            )


def test_small_pieces_make_full_chunks() -> None:
    async def sizes() -> list[int]:
        body = b'{"rows":[%b]}' % b",".join([b'{"a":1,"b":2}'] * 300)
        return [len(chunk) async for chunk in read_rows(READER, ROWS, body)]

    assert asyncio.run(sizes()) == [CHUNK, CHUNK, 300 - 2 * CHUNK]


def test_a_field_given_very_often_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []

    class Counting:
        def __init__(self, decoder: Any) -> None:
            self._decoder = decoder

        def decode(self, piece: bytes) -> Any:
            decoded.append(piece.count(b":"))
            return self._decoder.decode(piece)

    reader = TransactionReader(SCHEMA)
    for name in ("_decoder", "_list_decoder"):
        monkeypatch.setattr(reader, name, Counting(getattr(reader, name)))
    row = b'{%b"b":5e-324}' % (b'"a":5e-324,' * 5000)
    (fault,) = read(RowList("rows"), b'{"rows":[{"a":1,"b":2},%b, 5]}' % row, reader)
    assert (fault.index, fault.reason) == (1, "has more than 1000 fields")
    with pytest.raises(InvalidBodyError, match="more than 1000 fields"):
        reader.read(row)
    many = [b'{"a":5e-324,"b":5e-324}'] * BATCH_ROWS
    assert len(read(RowList("rows"), b'{"rows":[%b]}' % b",".join(many), reader)) == BATCH_ROWS
    # The decoder takes 10 µs for each of these numbers.
    assert max(decoded) < 2500


def test_a_fault_of_a_label_names_its_row() -> None:
    label = {
        "transaction_id": "t",
        "label": 1,
        "source": "s",
        "labelled_at": "2026-01-01T00:00:00Z",
    }
    rows: list[Any] = [label] * 2000
    rows[1500] = label | {"labelled_at": "9999-12-31T23:59:59-12:00"}
    rows[1700] = label | {"labelled_at": "2999-01-01T00:00:00Z"}
    rows[1999] = label | {"prediction_id": "01a20421-f1ac-7787-bb90-3e64b77a3937"}
    faults = read(LABELS, json.dumps({"labels": rows}).encode(), LabelReader())
    assert [(fault.index, fault.field, fault.code) for fault in faults] == [
        (1500, "labelled_at", "bad_time"),
        (1700, "labelled_at", "future"),
        (1999, None, "other"),
    ]


ROW = st.fixed_dictionaries(
    {"a": st.sampled_from([0, 1.5, -2, 9e-3, 11, None, "},{"]), "b": st.just(1)},
    optional={"transaction_id": st.text('a},{" \\\u00e9', max_size=5)},
)
SPACE = st.sampled_from(["", " ", "\n", "\t", "\x0b"])


@given(st.lists(ROW, max_size=12), SPACE, SPACE, st.integers(0, 400), st.binary(max_size=2))
def test_any_body_reads_as_row_by_row(
    rows: list[Any], before: str, after: str, at: int, put: bytes
) -> None:
    body = json.dumps({"rows": rows}, separators=(f"{before},{after}", ":")).encode()
    same(body)
    same(body[:at] + put + body[at:])


RAW_ROW = st.one_of(
    st.just(b'{"a":1,"b":2}'),
    st.just(b'{"b":1,"entity_key":"k","a":2}'),
    objects({"a": "1", "b": "2e0", "transaction_id": '"t"', "entity_key": "null"}),
)


@settings(max_examples=100_000 if PROOF else 300)
@given(spliced(lists("rows", RAW_ROW)))
def test_any_bytes_read_as_row_by_row(body: bytes) -> None:
    same(body)
