"""Records of a kind that only a newer release knows: kept for it and handed over."""

from pathlib import Path

import msgspec

from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.records import decode, encode, is_newer_kind
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import NEWER
from fraudops.state import State
from services.shipper.handover import hand_over
from tests.support.audit_records import prediction
from tests.support.serving import TOKEN, Service
from tests.support.shippers import Start, dead_letters, expect, expect_empty
from tests.support.waiting import eventually

NEWER_RECORD = msgspec.msgpack.encode(["outcome", "a-prediction", 1.5, None])


def fill(spool: Path, payloads: list[bytes]) -> None:
    writer = SpoolWriter(spool, "w-1", SpoolOptions())
    writer.append_many(payloads)
    writer.close()


def kept(spool: Path) -> list[bytes]:
    return [entry.data for entry in DeadLetters(spool, NEWER).entries()]


def test_a_record_with_fields_of_a_later_release_is_shipped_without_them(
    state: State, start_shipper: Start, database: str
) -> None:
    record = prediction()
    longer = [*msgspec.msgpack.decode(encode(record)), "a field", {"another": 1}]
    fill(state.spool, [msgspec.msgpack.encode(longer)])
    start_shipper(database)
    expect(database, [record.id])
    assert dead_letters(state) == []


def test_a_kind_that_this_release_does_not_know_is_kept_and_its_neighbours_are_shipped(
    state: State, start_shipper: Start, database: str
) -> None:
    records = [prediction() for _ in range(3)]
    fill(state.spool, [encode(records[0]), NEWER_RECORD, *map(encode, records[1:])])
    shipper = start_shipper(database)
    expect(database, [record.id for record in records])
    expect_empty(state)
    assert kept(state.spool) == [NEWER_RECORD]
    assert dead_letters(state) == []

    def counted() -> None:
        assert shipper.status.kept_for_newer == 1

    eventually(counted)
    # The same release reads them again at its next start and keeps them again.
    shipper.end()
    start_shipper(database)
    expect_empty(state)
    assert kept(state.spool) == [NEWER_RECORD]


def test_a_release_that_knows_the_kind_ships_what_an_older_one_kept(
    state: State, start_shipper: Start, database: str
) -> None:
    record = prediction()
    reason = "of a kind that only a newer release knows"
    DeadLetters(state.spool, NEWER).put(
        [RejectedRecord(encode(record), reason), RejectedRecord(NEWER_RECORD, reason)]
    )
    start_shipper(database)
    expect(database, [record.id])
    assert kept(state.spool) == [NEWER_RECORD]


def test_a_leaving_pod_hands_its_kept_records_over(tmp_path: Path) -> None:
    pod = Service(tmp_path / "pod", workers=1).promoted(1)
    try:
        DeadLetters(tmp_path / "spool", NEWER).put([RejectedRecord(NEWER_RECORD, "unknown")])
        assert hand_over(tmp_path / "spool", [pod.url], TOKEN) == 0
        assert kept(pod.state.spool) == [NEWER_RECORD]
        assert kept(tmp_path / "spool") == []
    finally:
        pod.stop()


def test_only_a_record_of_an_unknown_kind_is_one_of_a_newer_release() -> None:
    assert is_newer_kind(NEWER_RECORD)
    assert not is_newer_kind(encode(prediction()))
    for damaged in (b"", b"\xc1", msgspec.msgpack.encode([1]), msgspec.msgpack.encode({"a": 1})):
        assert not is_newer_kind(damaged)
    # A record of a known kind that lacks fields is damaged, and no newer release can ship it.
    assert not is_newer_kind(msgspec.msgpack.encode(["prediction"]))
    assert decode(encode(prediction()))
