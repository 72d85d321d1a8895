"""The reader of tensors: every form is read alike, and all else is refused in bounded steps."""

import asyncio
import contextlib
import json
import struct
import tracemalloc
from collections.abc import Callable
from itertools import chain
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.inference.reading import outline as outline_module
from services.inference.reading.faults import InvalidBodyError
from services.inference.reading.outline import OUTLINE_BYTES, STEP_BYTES
from services.inference.reading.row_count import RowCount
from services.inference.reading.tensor_types import NUMBERS
from services.inference.reading.tensors import TensorRequest, read_tensors
from services.inference.reading.transactions import BOM, TransactionReader
from tests.support.bodies import spliced
from tests.support.figures import PROOF
from tests.support.serving import BANK
from tests.support.turns import turns_of_others

READER = TransactionReader(BANK)
WIDTH = READER.features
CASES = 20_000 if PROOF else 200
# At the most bytes of a body, the steps between two turns of other requests.
MOST_BYTES = 16 << 20


def read(body: bytes, json_bytes: int | None = None) -> tuple[TensorRequest, list[Any]]:
    async def run() -> tuple[TensorRequest, list[Any]]:
        request = await read_tensors(READER, body, json_bytes)
        return request, [row async for chunk in request.chunks() for row in chunk]

    return asyncio.run(run())


def rows(body: bytes, json_bytes: int | None = None) -> list[Any]:
    return read(body, json_bytes)[1]


@pytest.mark.parametrize("value", [0.5, 1e9, None, "x"])
def test_the_rows_are_counted_also_of_a_refused_request(value: Any) -> None:
    async def counted() -> int:
        count, data = RowCount(), [0.5] * (7 * WIDTH - 1)
        with contextlib.suppress(InvalidBodyError):
            body = encoded(tensor([*data, value], [7, WIDTH]))
            request = await read_tensors(READER, body, None, count)
            assert [chunk async for chunk in request.chunks()]
        return count.rows

    assert asyncio.run(counted()) == 7


def refusal(body: bytes, json_bytes: int | None = None) -> InvalidBodyError:
    with pytest.raises(InvalidBodyError) as refused:
        read(body, json_bytes)
    return refused.value


def encoded(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": inputs, **more}).encode()


def tensor(data: Any, shape: list[int], datatype: str = "FP64", name: str = "x") -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def binary(x: NDArray[Any], datatype: str, ids: list[str]) -> tuple[bytes, int]:
    """Return a body with binary tensors, and the length of its JSON."""
    names = b"".join(struct.pack("<I", len(each)) + each.encode() for each in ids)
    values = x.astype(NUMBERS[datatype].dtype).tobytes()
    inputs = [
        {"name": name, "shape": shape, "datatype": kind, "parameters": {"binary_data_size": size}}
        for name, shape, kind, size in (
            ("x", list(x.shape), datatype, len(values)),
            ("transaction_id", [len(ids)], "BYTES", len(names)),
        )
    ]
    head = encoded(*inputs)
    return head + values + names, len(head)


@given(st.integers(0, 1 << 32), st.integers(1, 300), st.sampled_from(sorted(NUMBERS)))
@settings(max_examples=max(20, CASES // 10), deadline=None)
def test_flat_nested_binary_and_single_columns_are_the_same_rows(
    seed: int, n: int, datatype: str
) -> None:
    low, high = (0, 2) if datatype in ("BOOL", *_unsigned()) else (-10, 11)
    made = np.random.default_rng(seed)
    x = made.integers(low, high, (n, WIDTH)).astype(float)
    if datatype.startswith("FP"):
        x = (x + made.random(x.shape)).clip(-10, 10).astype(NUMBERS[datatype].dtype)
    written = (x.astype(bool) if datatype == "BOOL" else x.astype(NUMBERS[datatype].dtype)).tolist()
    ids = [f"t-{row}" for row in range(n)]
    names = tensor(ids, [n], "BYTES", "transaction_id")
    columns = [
        tensor([row[index] for row in written], [n], datatype, name)
        for index, name in enumerate(BANK.names)
    ]
    forms = [
        (encoded(tensor(written, [n, WIDTH], datatype), names), None),
        (encoded(tensor(list(chain.from_iterable(written)), [n, WIDTH], datatype), names), None),
        (encoded(names, *columns[::-1]), None),
        (encoded(*columns, parameters={"transaction_ids": ids}), None),
        binary(x, datatype, ids),
    ]
    expected = READER.transactions(x.astype(float), [(each, None) for each in ids])
    for body, length in forms:
        assert rows(body, length) == expected


def _unsigned() -> list[str]:
    return [name for name in NUMBERS if name.startswith("UINT")]


GOOD = encoded(
    tensor([[0.5] * WIDTH, [1] * WIDTH], [2, WIDTH]),
    tensor(["a", None], [2, 1], "BYTES", "transaction_id"),
    id="r",
    parameters={"entity_keys": ["k", "l"], "other": {"deep": [1, "x"]}},
    outputs=[{"name": "prediction"}],
)


@given(spliced(st.just(GOOD)), st.one_of(st.none(), st.integers(0, len(GOOD) + 9)))
@settings(max_examples=CASES, deadline=None)
def test_any_bytes_and_any_length_are_read_or_refused(body: bytes, length: int | None) -> None:
    try:
        found, transactions = read(body, length)
    except InvalidBodyError:
        return
    assert len(transactions) == found.rows
    if length is None:
        json.loads(body)


def test_a_list_is_read_in_pieces_as_it_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(3)
    x = [[round(random.uniform(-10, 10), 3) for _ in range(WIDTH)] for _ in range(20)]
    bodies = [
        json.dumps({"inputs": [tensor(data, [20, WIDTH])]}, indent=indent).encode()
        for data in (x, list(chain.from_iterable(x)))
        for indent in (None, 2)
    ]
    whole = [rows(body) for body in bodies]
    for step in range(1, 60, 7):
        monkeypatch.setattr(outline_module, "STEP_BYTES", step + 30)
        monkeypatch.setattr(outline_module, "PIECE_BYTES", step + 30)
        monkeypatch.setattr(outline_module, "ROW_BYTES", 500)
        assert [rows(body) for body in bodies] == whole
        for body in bodies:
            end = body.rindex(b"]", 0, body.rindex(b"]"))
            comma = body[:end].rstrip() + b"," + body[end:]
            assert refusal(comma).faults[0].code == "not_json"


def test_a_byte_order_mark_is_skipped_and_a_place_counts_from_the_first_byte() -> None:
    assert rows(BOM + GOOD) == rows(GOOD)
    for body in (GOOD, BOM + GOOD):
        for part in (b'"data": [[', b"[1, 1", b'"shape": [2, 1], "', b'"outputs": ['):
            wrong = body.replace(part, part[:-1] + b";" + part[-1:])
            assert str(refusal(wrong)).endswith(f"(byte {wrong.index(b';')})")


BAD: dict[str, tuple[bytes, str]] = {
    "a comma too many": (encoded(tensor([0] * WIDTH, [WIDTH])).replace(b"0]", b"0,]"), "not_json"),
    "no comma between rows": (
        encoded(tensor([[0] * WIDTH] * 2, [2, WIDTH])).replace(b"], [", b"] ["),
        "not_json",
    ),
    "a value between rows": (
        encoded(tensor([[0] * WIDTH] * 2, [2, WIDTH])).replace(b"], [", b"],1,["),
        "wrong_type",
    ),
    "an escaped key twice": (
        encoded(tensor([0] * WIDTH, [WIDTH])).replace(b'"data"', b'"d\\u0061ta":[1],"data"'),
        "repeated_key",
    ),
    "NaN": (encoded(tensor([float("nan")] * WIDTH, [WIDTH])), "not_finite"),
    "a number outside of its type": (
        encoded(tensor([300] * WIDTH, [WIDTH], "INT8")),
        "wrong_type",
    ),
    "a fraction as an integer": (encoded(tensor([0.5] * WIDTH, [WIDTH], "INT64")), "wrong_type"),
    "too large for FP32": (encoded(tensor([1e300] * WIDTH, [WIDTH], "FP32")), "not_finite"),
    "a value too few": (encoded(tensor([0] * (WIDTH - 1), [WIDTH])), "other"),
    "a value too many": (encoded(tensor([0] * (WIDTH + 1), [WIDTH])), "other"),
    "rows of two lengths": (
        encoded(tensor([[0] * (WIDTH - 1), [0] * (WIDTH + 1)], [2, WIDTH])),
        "other",
    ),
    "two tensors of one name": (
        encoded(*[tensor([0] * WIDTH, [WIDTH])] * 2),
        "repeated_key",
    ),
    "three levels": (encoded(tensor([[[0] * WIDTH]], [1, WIDTH])), "too_deep"),
    "an object": (encoded(tensor([{}], [1, WIDTH])), "wrong_type"),
    "a feature as text": (
        encoded(*[tensor(["x"], [1], "BYTES", name) for name in BANK.names]),
        "wrong_type",
    ),
    "no feature": (encoded(tensor(["x"], [1], "BYTES", "transaction_id")), "missing"),
    "a list nowhere needed": (
        encoded(tensor([0] * WIDTH, [WIDTH]), parameters={"data": [1]}),
        "unknown_field",
    ),
    "an id twice": (
        encoded(
            tensor([0] * WIDTH, [WIDTH]),
            tensor(["x"], [1], "BYTES", "transaction_id"),
            parameters={"transaction_id": "y"},
        ),
        "repeated_key",
    ),
    "one id for two rows": (
        encoded(tensor([0] * 2 * WIDTH, [2, WIDTH]), parameters={"entity_key": "y"}),
        "bad_id",
    ),
    "an id of two words": (
        encoded(tensor([0] * WIDTH, [WIDTH]), parameters={"transaction_ids": ["a b"]}),
        "bad_id",
    ),
    "no rows": (encoded(tensor([], [0, WIDTH])), "empty"),
    "a shape beyond all memory": (encoded(tensor([0], [1 << 62, WIDTH])), "too_many_rows"),
    "too many rows": (encoded(tensor([[0]] * 10_001, [10_001, WIDTH])), "too_many_rows"),
    "a long id": (encoded(tensor([0] * WIDTH, [WIDTH]), id="x" * 257), "too_large"),
}


@pytest.mark.parametrize(("body", "code"), BAD.values(), ids=BAD)
def test_a_bad_request_has_the_code_of_its_fault(body: bytes, code: str) -> None:
    assert refusal(body).faults[0].code == code


def test_binary_sizes_must_fit_the_body_and_the_shape() -> None:
    body, length = binary(np.zeros((2, WIDTH)), "FP64", ["a", "b"])
    assert len(rows(body, length)) == 2
    size = 16 * WIDTH
    larger = body.replace(b'"binary_data_size": %d' % size, b'"binary_data_size": %d' % (size + 8))
    for changed, json_bytes in (
        (body, None),
        (body, length - 1),
        (body, len(body) + 1),
        (body + b"x", length),
        (body[:-1], length),
        (larger, length),
        (larger + bytes(8), length),
        (body.replace(b"\x01\x00\x00\x00a", b"\xff\xff\xff\xffa"), length),
        (body.replace(b"\x01\x00\x00\x00b", b"\x00\x00\x00\x00b"), length),
    ):
        assert refusal(changed, json_bytes)
    assert refusal(GOOD, len(GOOD) + 1)
    for name in ("a b", ""):
        spaced = binary(np.zeros((2, WIDTH)), "FP64", ["a", name])
        assert refusal(*spaced).faults[0].code == "bad_id"
    both = encoded({**tensor([0] * WIDTH, [WIDTH]), "parameters": {"binary_data_size": 0}})
    assert "both" in str(refusal(both))


def test_a_byte_that_is_no_boolean_is_refused() -> None:
    body, length = binary(np.ones((1, WIDTH)), "BOOL", ["a"])
    assert rows(body, length)
    two = body[:length] + body[length:].replace(b"\x01", b"\x02", 1)
    assert refusal(two, length).faults[0].code == "wrong_type"


def test_the_first_fault_of_each_row_is_named_and_all_of_a_single_row() -> None:
    x = np.zeros((257, WIDTH))
    x[0, 1] = x[0, 2] = x[128, 0] = x[256, :] = 11
    faults = refusal(encoded(tensor(x.tolist(), [257, WIDTH]))).faults
    assert [(fault.index, fault.field) for fault in faults] == [
        (0, BANK.names[1]),
        (128, BANK.names[0]),
        (256, BANK.names[0]),
    ]
    single = refusal(encoded(tensor([11] * WIDTH, [WIDTH]))).faults
    assert [(fault.index, fault.field) for fault in single] == [(None, name) for name in BANK.names]


def filled(
    unit: bytes, start: bytes, end: bytes = b"]}]}", size: int = MOST_BYTES
) -> Callable[[], bytes]:
    return lambda: start + unit * ((size - len(start) - len(end)) // len(unit)) + end


def many_lists(unit: bytes, units: int) -> Callable[[], bytes]:
    return filled(b'{"data":[%b]},' % (unit * units), b'{"inputs":[', b"{}]}")


def outlined(unit: bytes, start: bytes = b'{"x":[', end: bytes = b"0]}") -> Callable[[], bytes]:
    """Make a body without long lists, which waits for no permit."""
    return filled(unit, start, end, OUTLINE_BYTES)


HEAD = encoded(tensor(0, [1, WIDTH])).removesuffix(b"0}]}") + b"["
MANY = encoded(tensor(0, [10_000, WIDTH])).removesuffix(b"0}]}") + b"["
LARGE = {
    "zeros": filled(b"0,", HEAD),
    "rows": filled(b"[0],", HEAD),
    "open brackets": filled(b"[", HEAD),
    "texts": filled(b'"",', HEAD),
    "one text": filled(b"a", HEAD + b'"'),
    "escapes": filled(b'\\"', HEAD + b'"'),
    "spaces": filled(b" ", HEAD),
    "spaces between rows": filled(b" ", HEAD + b"[0],", b"[0]]}]}"),
    "spaces before": filled(b" ", b"", HEAD),
    "tensors": filled(b'{"name":"","shape":[],"datatype":""},', b'{"inputs":['),
    "a long shape": filled(b"1,", b'{"inputs":[{"name":"x","shape":['),
    "fields": filled(b'"a":0,', b"{"),
    "parameters": filled(b'"a":0,', b'{"parameters":{'),
    "one large row": filled(b"1e300,", MANY + b"[", b"0]]}]}"),
    "lists of rows": many_lists(b"[],", 9_990),
    "lists of texts": many_lists(b'"",', 9_990),
    "lists of zeros": many_lists(b"0,", 30_000),
    "lists of one": many_lists(b"0", 1),
    "lists in the outline": outlined(b"[],"),
    "lists without commas": outlined(b"[]"),
    "objects in the outline": outlined(b"{},"),
    "texts in the outline": outlined(b'"",'),
    "deep parameters": outlined(b"[" * 60 + b"]" * 60 + b",", b'{"parameters":{"x":[', b"0]}}"),
    "a long key twice": lambda: b'{"%b":0,"%b":0}' % ((b"12345" + b"a" * 30_000,) * 2),
}
# The tokens that are looked at in bodies with very many. Others have a turn after every 2,048.
TOKENS = {
    "lists of rows": (WIDTH + 4) * 2 * 9_990,
    "lists of texts": (WIDTH + 4) * 9_990,
    "lists in the outline": OUTLINE_BYTES * 2 // 3,
    "lists without commas": OUTLINE_BYTES,
    "objects in the outline": OUTLINE_BYTES * 2 // 3,
    "texts in the outline": OUTLINE_BYTES // 3,
    "deep parameters": OUTLINE_BYTES,
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_large_malformed_request_is_refused_in_bounded_steps(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []
    found = outline_module.pieces

    async def pieces(*arguments: Any) -> Any:
        async for place, piece in found(*arguments):
            decoded.append(len(piece))
            yield place, piece

    monkeypatch.setattr("services.inference.reading.tensor_types.pieces", pieces)
    body = LARGE[kind]()
    tracemalloc.start()
    try:
        turns, refused = asyncio.run(turns_of(body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(refused, InvalidBodyError)
    codes = ("missing", "not_json", "other", "repeated_key", "too_deep", "too_large")
    assert refused.faults[0].code in (*codes, "too_many_rows")
    assert turns >= TOKENS.get(kind, 0) // 2500
    assert peak < 8 << 20
    # The first piece has more values than the shape says: no other one is decoded.
    assert len(decoded) <= 1
    assert sum(decoded) <= 2 * STEP_BYTES or kind == "one large row"


async def turns_of(body: bytes, json_bytes: int | None = None) -> tuple[int, Exception | None]:
    """Read a request, and return the turns that other tasks got of the loop."""
    refused = None
    async with turns_of_others() as turns:
        try:
            await read_tensors(READER, body, json_bytes)
        except InvalidBodyError as error:
            refused = error
    return turns.number, refused


def test_good_tensors_leave_turns_to_others() -> None:
    n = 9_000
    columns = encoded(*(tensor([0] * n, [n], name=name) for name in BANK.names))
    narrow = encoded(*(tensor([[0]] * n, [n, 1], name=name) for name in BANK.names))
    for body in (columns, narrow):
        turns, refused = asyncio.run(turns_of(body))
        assert refused is None
        # 8 KiB of numbers in a turn; the last piece of each column may be smaller.
        assert turns >= len(body) // (12 << 10)
    ids = binary(np.zeros((n, WIDTH)), "FP64", ["x"] * n)
    assert asyncio.run(turns_of(*ids))[0] >= n // 2048
    # A small request needs no other turn than that of its answer.
    assert asyncio.run(turns_of(GOOD)) == (0, None)


def test_a_request_has_a_list_for_each_feature_and_four_of_ids() -> None:
    columns = [tensor([0], [1], name=name) for name in BANK.names]
    lists = {"transaction_ids": ["t"], "entity_keys": ["k"]}
    assert len(rows(encoded(*columns, parameters=lists))) == 1
    more = [tensor(["t"], [1], "BYTES", name) for name in ("transaction_id", "entity_key")]
    assert refusal(encoded(*columns, *more, parameters=lists)).faults[0].code == "repeated_key"
    fault = refusal(encoded(*columns, *more, more[0], parameters=lists)).faults[0]
    assert (fault.code, f"more than {WIDTH + 4} lists" in fault.reason) == ("too_large", True)


def test_a_large_row_of_another_length_is_not_decoded() -> None:
    for values in (WIDTH - 1, WIDTH + 1):
        # No decoder would accept them.
        numbers = ",".join(["x" * 4000] * values)
        body = MANY + f"[{numbers}]]}}]}}".encode()
        assert "rows of another length" in str(refusal(body))


def test_what_is_in_no_list_has_at_most_64_kib() -> None:
    spaces = encoded(tensor([0] * WIDTH, [WIDTH]))
    # The list is not counted, and its place has three bytes.
    room = OUTLINE_BYTES - len(spaces) + len(json.dumps([0] * WIDTH)) - 3
    assert len(rows(b" " * room + spaces)) == 1
    assert refusal(b" " * (room + 1) + spaces).faults[0].code == "too_large"
