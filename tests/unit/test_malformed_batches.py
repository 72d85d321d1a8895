"""Malformed lists of 16 MiB leave the event loop and the memory to other requests."""

import tracemalloc
from collections.abc import Callable

import pytest

from fraudops.schema import Feature, FeatureSchema
from services.inference.reading.faults import REPORTED_FAULTS, FieldFault, InvalidBodyError
from services.inference.reading.rows import TRANSACTIONS, read_rows
from services.inference.reading.transactions import TransactionReader
from tests.support.bodies import malformed
from tests.support.figures import PROOF
from tests.support.turns import turns_of_others

READER = TransactionReader(
    FeatureSchema(
        "bank", "fraud", "seen_at", "V1", tuple(Feature(f"V{n}", -10.0, 10.0) for n in (1, 2))
    )
)
ROW = b'{"V1":1.5,"V2":2}'
SIZE = 16 << 20
MALFORMED = malformed(ROW, SIZE)
# Bodies that are read to their end.
READ_ON = {"large good rows, then a bad one", "a bad row, then large good ones"}
# Bodies of large rows, of which a hundred are explained, and of small ones.
EXPLAINED = {"rows of texts", "rows of NaN", "rows of a long name"}
SMALL = {"empty rows", "rows of many names"}


async def turns_of(body: bytes) -> tuple[int, tuple[FieldFault, ...]]:
    """Read a refused batch, and return the number of turns that others got of the loop."""
    async with turns_of_others() as turns:
        with pytest.raises(InvalidBodyError) as refusal:
            async for _ in read_rows(READER, TRANSACTIONS, body):
                pass
    return turns.number, refusal.value.faults


@pytest.mark.parametrize("kind", MALFORMED)
async def test_a_refusal_yields_to_the_loop_every_64_kib(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    body = MALFORMED[kind]()
    tracemalloc.start()
    try:
        turns, faults = await turns_of(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    record_property("turns", turns)
    assert len(faults) <= REPORTED_FAULTS
    assert peak < 4 << 20
    # A slice ends with the row in which it reaches 64 KiB.
    if kind in READ_ON | {"spaces after the list"}:
        assert turns >= SIZE // (66 << 10)
    if kind in EXPLAINED:
        assert turns >= REPORTED_FAULTS
    if kind in SMALL:
        assert turns >= REPORTED_FAULTS // 16
    if PROOF:
        print(f"| {kind} | {turns} | {peak / 1024:.0f} | {faults[0].reason} | {len(faults)} |")
