"""`fraudops audit replay`: dead letters and segments of other spools return to the spool."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from fraudops.audit.dead_letters import RejectedRecord
from fraudops.audit.records import encode
from fraudops.errors import StoreDownError
from fraudops.spool.segments import list_segments
from tests.support.audit_records import fill, prediction
from tests.support.audit_site import AuditSite


def test_dead_letters_reach_the_table_once_after_their_fault_is_repaired(
    audit: AuditSite,
) -> None:
    records = [prediction(fraud_probability=1.5), prediction(fraud_probability=1.25)]
    fill(audit.state.spool, [prediction(), *records])
    assert audit.ship_the_spool() == 1
    audit.dead_letters.put([RejectedRecord(b"torn", "damaged or unfinished: x from byte 3")])
    result = audit("replay", "--dry-run", "--json")
    assert json.loads(result.stdout)["kinds"] == {
        "PostgreSQL refuses it: CheckViolationError 23514": 2,
        "damaged or unfinished": 1,
    }
    assert len(list(audit.dead_letters.entries())) == 3

    result = audit("replay")
    assert (
        result.returncode,
        "2 records are back in the spool; 1 hold no record" in result.stdout,
    ) == (0, True)
    assert audit.ship_the_spool() == 0
    assert len(list(audit.dead_letters.entries())) == 3, "a replay before the repair loses nothing"

    with psycopg.connect(audit.url) as connection:
        connection.execute(
            "ALTER TABLE predictions DROP CONSTRAINT predictions_fraud_probability_check"
        )
    copies = {path: path.read_bytes() for path in audit.dead_letters.folder.glob("*.jsonl")}
    assert audit("replay").returncode == 0
    assert audit.ship_the_spool() == 2
    assert [entry.data for entry in audit.dead_letters.entries()] == [b"torn"]
    for path, content in copies.items():
        path.write_bytes(content)
    assert audit("replay").returncode == 0
    assert audit.ship_the_spool() == 0
    assert audit.verify([record.id for record in records])[1]["log"]["in_table"] == 2


def test_a_segment_of_another_spool_is_replayed_around_its_damage(
    audit: AuditSite, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    calls = fill(other, [prediction() for _ in range(40)])
    [segment] = [other / each.name for each in list_segments(other)]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(bytes(data[:-2]))
    result = audit("replay", segment, "--json")
    done = json.loads(result.stdout)
    assert (done["records"], done["damaged"], done["segments"]) == (38, 2, 1)
    assert audit.ship_the_spool() == 38
    assert audit("replay", segment, segment).returncode == 0
    assert audit.ship_the_spool() == 0
    assert audit.verify(calls)[1]["log"]["lost"] == 2


def test_a_segment_of_the_spool_itself_is_refused(audit: AuditSite) -> None:
    fill(audit.state.spool, [prediction()])
    [segment] = list_segments(audit.state.spool)
    assert audit("replay", audit.state.spool / segment.name).returncode == 64


def test_a_killed_replay_is_finished_by_the_next_and_two_never_run_together(
    audit: AuditSite,
) -> None:
    record = prediction()
    audit.dead_letters.put([RejectedRecord(encode(record), "why")])
    audit.dead_letters._take()
    assert audit.verify([record.id])[1]["log"]["set_aside"] == 1
    with audit.dead_letters._alone():
        assert audit("replay").returncode == 75
    assert audit("replay").returncode == 0
    assert audit.ship_the_spool() == 1


def test_a_replay_into_a_full_spool_keeps_the_dead_letters(
    audit: AuditSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit.dead_letters.put([RejectedRecord(encode(prediction()), "why")])
    with monkeypatch.context() as patch:
        patch.setattr(
            "fraudops.spool.writer.os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        with pytest.raises(StoreDownError):
            audit.dead_letters.replay()
    assert len(list(audit.dead_letters.entries())) == 1
    assert audit.dead_letters.replay().records == 1


def test_half_a_line_of_a_killed_shipper_spoils_no_other_dead_letter(audit: AuditSite) -> None:
    audit.dead_letters.put([RejectedRecord(b"first", "why")])
    [path] = audit.dead_letters.folder.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"at":"2026-11-02T00:00:00Z","rea')
    assert [entry.data for entry in audit.dead_letters.entries()] == [b"first"]
    audit.dead_letters.put([RejectedRecord(b"second", "why")])
    assert [entry.data for entry in audit.dead_letters.entries()] == [b"first", b"second"]


def test_the_replay_program_of_the_shipper_image_replays(audit: AuditSite) -> None:
    audit.dead_letters.put([RejectedRecord(encode(prediction()), "why")])
    environment = {**os.environ, "DATABASE_URL": audit.url, "FRAUDOPS_STATE": str(audit.state.root)}
    done = subprocess.run(
        [sys.executable, "-m", "services.shipper.replay"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["records"] == 1
    assert audit.ship_the_spool() == 1
