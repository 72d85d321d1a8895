"""What a rollback says: other columns that clients must send, and an unsigned version."""

import msgspec
import pytest

from fraudops.errors import RefusedError
from fraudops.promotion.serving_record import EMPTY, ServingEntry, ServingRecord
from jobs.rollback import RollbackGate
from tests.support.signing import SIGNERS, passing

KEYS = SIGNERS.public


def entry(version: str, schema: str) -> ServingEntry:
    return ServingEntry(
        epoch=int(version),
        version=version,
        digest=version * 64,
        schema_fingerprint=schema,
        by="a request",
        at="2026-11-01T12:00:00Z",
        signed_verdict=passing(version, version * 64),
    )


@pytest.mark.parametrize(
    ("in_place", "way"),
    [
        (False, "clients must change their requests, so this goes by rollout"),
        (
            True,
            "on one machine the model is replaced in place, so clients must change their requests "
            "now",
        ),
    ],
)
async def test_a_change_of_schema_is_said_in_words_with_the_way_it_goes(
    in_place: bool, way: str
) -> None:
    said = list[str]()
    record = ServingRecord(current=entry("2", "new"), stack=(entry("1", "old"),))
    change = await RollbackGate(KEYS, "development", in_place, said.append).decide(record)
    assert (change.model.version, change.strategy) == ("1", "rollout")
    assert said == [f"version 1 reads other columns than version 2: {way}"]


async def test_a_rollback_that_needs_a_rollout_is_refused_where_none_is_allowed() -> None:
    gate = RollbackGate(KEYS, "development", False, pytest.fail, strategies=("broadcast",))
    record = ServingRecord(current=entry("2", "new"), stack=(entry("1", "old"),))
    with pytest.raises(RefusedError, match="so it needs rollout, and rollout is not allowed"):
        await gate.decide(record)
    same = ServingRecord(current=entry("2", "s"), stack=(entry("1", "s"),))
    assert (await gate.decide(same)).strategy == "broadcast"


async def test_a_rollback_within_a_schema_says_nothing_and_one_without_a_way_is_refused() -> None:
    said = list[str]()
    gate = RollbackGate(KEYS, "development", in_place=False, warn=said.append)
    record = ServingRecord(current=entry("2", "s"), stack=(entry("1", "s"),))
    assert (await gate.decide(record)).strategy == "broadcast"
    with pytest.raises(RefusedError, match="no earlier version"):
        await gate.decide(EMPTY)
    assert said == []


async def test_a_rollback_to_an_unsigned_version_says_so() -> None:
    said = list[str]()
    back = msgspec.structs.replace(entry("1", "s"), signed_verdict=None, unsigned=True)
    record = ServingRecord(current=entry("2", "s"), stack=(back,))
    change = await RollbackGate(KEYS, "development", False, said.append).decide(record)
    assert (change.model.version, change.model.unsigned) == ("1", True)
    assert said == [
        "version 1 is unsigned, from before: release 0.2.0 promoted it, and no signature proves "
        "its verdict"
    ]
