"""The shipper's look at `spool/newer`: what it takes back, when, and what it leaves alone."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.records import encode
from fraudops.audit.shipper_status import ShipperStatus
from fraudops.ids import uuid7
from fraudops.spool.inspection import payloads
from fraudops.spool.segments import NEWER, spool_bytes
from services.shipper.newer_kinds import NewerKinds
from tests.support.audit_records import prediction

UNKNOWN = msgspec.msgpack.encode(["outcome", "a-prediction", 1.5, None])
MAXIMUM = 1 << 20


def newer_kinds(spool: Path, phase: str = "shipping") -> NewerKinds:
    now = datetime.now(UTC)
    return NewerKinds(spool, MAXIMUM, ShipperStatus(pid=1, at=now, phase=phase))


def keep(spool: Path, *records: bytes) -> None:
    DeadLetters(spool, NEWER).put(RejectedRecord(record, "unknown") for record in records)


def arrive(spool: Path, *lines: bytes) -> None:
    """Put a file there as another pod does that leaves."""
    (spool / NEWER).mkdir(parents=True, exist_ok=True)
    path = spool / NEWER / f"20260101-{uuid7()}.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def line(payload: str) -> bytes:
    letter = {"at": "2026-01-01T00:00:00Z", "reason": "unknown", "payload": payload}
    return json.dumps(letter).encode()


def known() -> bytes:
    return line(base64.b64encode(encode(prediction())).decode())


def kept(spool: Path) -> list[bytes]:
    return [entry.data for entry in DeadLetters(spool, NEWER).entries()]


def modified(spool: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (spool / NEWER).glob("*.jsonl")}


def in_spool(spool: Path) -> int:
    return sum(1 for path in spool.glob("*.seg") for _ in payloads(path))


def test_a_file_that_arrives_during_a_look_is_read_by_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, UNKNOWN, encode(prediction()))
    kinds, replay = newer_kinds(tmp_path), DeadLetters.replay

    def replay_and_arrive(self: DeadLetters, maximum: int) -> object:
        done = replay(self, maximum)
        arrive(tmp_path, known())
        return done

    monkeypatch.setattr(DeadLetters, "replay", replay_and_arrive)
    kinds.look()
    monkeypatch.undo()
    assert in_spool(tmp_path) == 1
    kinds.look()
    assert in_spool(tmp_path) == 2
    assert kept(tmp_path) == [UNKNOWN]


def test_a_file_without_known_records_is_not_written_again(tmp_path: Path) -> None:
    """It may be large, and the disk may be full."""
    keep(tmp_path, UNKNOWN)
    arrive(tmp_path, line(base64.b64encode(UNKNOWN).decode()))
    kinds, before = newer_kinds(tmp_path), modified(tmp_path)
    kinds.look()
    kinds.look()
    assert modified(tmp_path) == before
    assert len(kept(tmp_path)) == 2


def test_nothing_is_taken_back_while_postgresql_is_away(tmp_path: Path) -> None:
    """The room of the spool is for what the pod answers."""
    keep(tmp_path, encode(prediction()))
    newer_kinds(tmp_path, phase="waiting").look()
    assert len(kept(tmp_path)) == 1
    assert in_spool(tmp_path) == 0


def test_records_are_taken_back_file_by_file_up_to_half_of_the_spool(tmp_path: Path) -> None:
    many = [known() for _ in range(500)]
    for _ in range(12):
        arrive(tmp_path, *many)
    kinds = newer_kinds(tmp_path)
    kinds.look()
    left = len(kept(tmp_path))
    assert 0 < left < 6000
    assert left + in_spool(tmp_path) == 6000
    assert spool_bytes(tmp_path) <= MAXIMUM // 2
    for path in tmp_path.glob("*.seg"):
        path.unlink()
    kinds.look()
    assert len(kept(tmp_path)) < left


@pytest.mark.parametrize("damage", [line("no base64"), line("").replace(b"unknown", b"\xff")])
def test_a_damaged_line_is_reported_and_does_not_end_the_shipper(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrive(tmp_path, damage)
    newer_kinds(tmp_path).look()
    assert "cannot be read" in caplog.text
