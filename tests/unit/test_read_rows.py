"""Lists are read in pieces, with the same rows and faults as row by row, for any body."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraudops.schema import Feature, FeatureSchema
from services.inference.reading.faults import FieldFault, InvalidBodyError
from services.inference.reading.rows import CHUNK, RowList, read_rows
from services.inference.reading.transactions import TransactionReader

READER = TransactionReader(
    FeatureSchema(
        "bank",
        "fraud",
        "seen_at",
        "spent",
        tuple(Feature(name, -10.0, 10.0) for name in ("a", "b")),
    )
)
ROWS = RowList("rows", most=500, piece_bytes=1)
Found = list[Any] | tuple[FieldFault, ...]


class RowByRow(RowList):
    def pieces(self, body: bytes) -> Iterator[bytes]:
        yield b""


class InPieces(RowList):
    def split(self, body: bytes) -> list[msgspec.Raw]:
        raise AssertionError("it is read row by row")


def read(rows: RowList, body: bytes) -> Found:
    async def every() -> list[Any]:
        return [
            msgspec.structs.astuple(row)
            async for chunk in read_rows(READER, rows, body)
            for row in chunk
        ]

    try:
        return asyncio.run(every())
    except InvalidBodyError as refusal:
        return refusal.faults


def same(body: bytes) -> Found:
    items = read(ROWS, body)
    assert items == read(RowByRow("rows", most=500), body)
    return items


def body_of(*rows: Any) -> bytes:
    return json.dumps({"rows": rows}).encode()


def test_a_usual_body_is_not_read_row_by_row() -> None:
    rows = [{"a": number / 100, "b": 1} for number in range(300)]
    for body in (
        body_of(*rows),
        json.dumps({"rows": rows}, indent=1).encode(),
        json.dumps({"rows": rows}, separators=(" , ", " : ")).encode() + b"\r\n",
    ):
        assert read(InPieces("rows", piece_bytes=1), body) == [
            (number / 100, 1.0, None, None) for number in range(300)
        ]


def test_rows_come_in_chunks_however_many_a_piece_holds() -> None:
    async def sizes() -> list[int]:
        return [
            len(chunk)
            async for chunk in read_rows(
                READER, InPieces("rows"), body_of(*[{"a": 1, "b": 2}] * (2 * CHUNK + 3))
            )
        ]

    assert asyncio.run(sizes()) == [CHUNK, CHUNK, 3]


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
        b"",
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
        FieldFault(field="rows", reason="must be given once"),
    )


def test_faults_name_their_rows_after_those_that_were_read() -> None:
    rows: list[Any] = [{"a": 1, "b": 2} for _ in range(300)]
    rows[170], rows[290] = {"a": 1}, {"a": 1, "b": "x"}
    items = same(body_of(*rows))
    assert [(fault.index, fault.field) for fault in items if isinstance(fault, FieldFault)] == [
        (170, "b"),
        (290, "b"),
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
