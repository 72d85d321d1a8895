"""Documents keep the fields of a newer release, at every level and after every change."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fraudops.extensible import Extensible, decode_document, encode_document
from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import (
    RecordUnreadableError,
    ServingRecord,
    ServingTarget,
    commit,
    decode,
    encode,
    undo,
)
from fraudops.state import State
from services.inference.pod.state import pod_state_path, read_pod_state

ENTRY = {
    "epoch": 4,
    "version": "1",
    "digest": "1" * 64,
    "schema_fingerprint": "f",
    "by": "a",
    "at": "then",
}
RESERVED = ENTRY | {"epoch": 5, "version": "2", "digest": "2" * 64, "strategy": "broadcast"}
RECORD: dict[str, Any] = {
    "future": {"nested": [1, {"unknown": 2}]},
    "current": ENTRY | {"act": "promote"},
    "previous": ENTRY | {"epoch": 3, "act": "promote"},
    "reserved": RESERVED | {"act": "canary"},
    "stack": [ENTRY | {"epoch": 3, "act": "promote"}],
    "requests": [{"id": "a", "epoch": 4, "tries": 2}],
    "unknown": "a field that bears the name itself",
}


def test_a_record_of_a_newer_release_is_written_as_it_was_read() -> None:
    assert json.loads(encode(decode(json.dumps(RECORD).encode()))) == RECORD


def test_a_commit_keeps_what_the_reservation_and_the_replaced_entry_carry() -> None:
    written = json.loads(encode(commit(decode(json.dumps(RECORD).encode()))))
    assert written["future"] == RECORD["future"]
    assert written["current"]["act"] == "canary"
    assert written["stack"][0] == RECORD["current"]
    assert written["requests"] == RECORD["requests"]


def test_an_undo_keeps_the_fields_of_the_entry_that_it_restores() -> None:
    written = json.loads(encode(undo(decode(json.dumps(RECORD).encode()), 6, "now")))
    assert written["current"]["act"] == "promote"
    assert written["future"] == RECORD["future"]


def test_an_undo_knows_the_entry_before_it_by_its_epoch() -> None:
    """A newer release may add fields to one copy of the entry only."""
    record = RECORD | {"stack": [ENTRY | {"epoch": 3}]}
    undone = undo(decode(json.dumps(record).encode()), 6, "now")
    assert undone.stack == ()


def test_a_pods_state_keeps_unknown_fields_when_the_pod_changes_version() -> None:
    state = decode_document(b'{"epoch": 1, "challenger": "7"}', PodState)
    moved = state.serving(ServingTarget(2, "2", "2" * 64), "cache").without_model(())
    assert json.loads(encode_document(moved))["challenger"] == "7"


def test_a_record_without_unknown_fields_is_stored_in_the_form_of_the_release_before() -> None:
    assert encode(ServingRecord(alias_epoch=3)) == b'{"mirrored":3}'


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
