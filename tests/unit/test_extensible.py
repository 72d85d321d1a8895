"""Documents keep the fields of a newer release, at every level and after every change."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraudops.extensible import Extensible, decode_document, encode_document
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import Undo, commit, commit_undo
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import (
    FORMAT,
    NewerFormatError,
    RecordUnreadableError,
    ServingRecord,
    ServingTarget,
    decode,
    encode,
)
from fraudops.state import State
from services.inference.pod.state import pod_state_path, read_pod_state

ENTRY = {
    "epoch": 4,
    "version": "1",
    "digest": "1" * 64,
    "schema_fingerprint": "f",
    "by": "a",
    "act": "promote",
    "at": "then",
}
RESERVED = ENTRY | {"epoch": 5, "version": "2", "digest": "2" * 64, "strategy": "broadcast"}
RECORD: dict[str, Any] = {
    "format": FORMAT,
    "future": {"nested": [1, {"unknown": 2}]},
    "current": ENTRY | {"share": 4},
    "previous": ENTRY | {"epoch": 3, "share": 3},
    "reserved": RESERVED | {"act": "canary", "share": 5},
    "stack": [ENTRY | {"epoch": 3, "share": 3}],
    "requests": [{"id": "a", "epoch": 4, "tries": 2}],
    "unknown": "a field that bears the name itself",
}


def read() -> ServingRecord:
    return decode(json.dumps(RECORD).encode())


def test_a_record_of_a_newer_release_is_written_as_it_was_read() -> None:
    assert json.loads(encode(read())) == RECORD


def test_the_number_of_the_format_is_written_and_a_newer_one_is_not_overwritten() -> None:
    old = {name: value for name, value in RECORD.items() if name != "format"}
    record = decode(json.dumps(old).encode())
    assert record.format < FORMAT
    assert json.loads(encode(record))["format"] == FORMAT
    newer = decode(json.dumps(RECORD | {"format": FORMAT + 1}).encode())
    assert newer.current == read().current
    with pytest.raises(NewerFormatError, match=f"format {FORMAT + 1}, and this release writes"):
        encode(newer)


def test_a_commit_keeps_what_the_reservation_and_the_replaced_entry_carry() -> None:
    row = Attempt(request="b", requested_by="c", at="now")
    written = json.loads(encode(commit(read(), row)))
    assert written["future"] == RECORD["future"]
    assert written["current"]["share"] == 5
    assert written["current"]["act"] == "canary"
    assert written["stack"][0] == RECORD["current"]
    assert written["requests"] == RECORD["requests"]


def test_an_undo_keeps_the_fields_of_the_entry_that_it_restores() -> None:
    record, row = read(), Attempt(request="a", requested_by="c", at="now")
    assert record.current
    assert record.previous
    undone = commit_undo(record, Undo(record.current, record.previous), 6, "now", row)
    written = json.loads(encode(undone))
    assert written["current"]["share"] == 3
    assert written["current"]["act"] == "undo"
    assert written["future"] == RECORD["future"]


def test_a_pods_state_keeps_unknown_fields_when_the_pod_changes_version() -> None:
    state = decode_document(b'{"epoch": 1, "challenger": "7"}', PodState)
    moved = state.serving(ServingTarget(2, "2", "2" * 64), "cache").without_model(())
    assert json.loads(encode_document(moved))["challenger"] == "7"


def test_a_record_is_stored_under_the_names_of_the_release_before() -> None:
    written = encode(ServingRecord(alias_epoch=3, alias_note="moved"))
    assert json.loads(written) == {"mirrored": 3, "alias_moved": "moved", "format": FORMAT}


@pytest.mark.parametrize("data", [b"[]", b"7", b'{"current": [1]}', b'{"stack": {}}', b"{"])
def test_data_that_is_not_a_document_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_document(data, ServingRecord)


def test_a_known_field_wins_over_an_unknown_one_of_its_name() -> None:
    class Small(Extensible, frozen=True, kw_only=True):
        count: int = 0

    assert json.loads(encode_document(Small(count=1, unknown={"count": 2}))) == {"count": 1}


DAMAGED = {"not UTF-8": b'{"x":"\xff"}', "too deep": b'{"x":' + b"[" * 9000 + b"]" * 9000 + b"}"}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_damage_in_a_field_of_a_newer_release_is_a_decoding_error(
    data: bytes, tmp_path: Path
) -> None:
    state = State.at(tmp_path)
    with pytest.raises(RecordUnreadableError):
        decode(data)
    pod_state_path(state).parent.mkdir(parents=True)
    pod_state_path(state).write_bytes(data)
    assert read_pod_state(state) == PodState()
