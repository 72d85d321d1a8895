"""What each act does to the serving record, and what a stored record of each release means."""

import json
from typing import Any

import msgspec
import pytest

from fraudops.errors import FraudopsError, RefusedError
from fraudops.promotion import changes
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import Promote, Rollback, Undo
from fraudops.promotion.serving_record import (
    CONFIG_MAP_KEY,
    EMPTY,
    REQUEST_LIMIT,
    STACK_LIMIT,
    UNWRITTEN_LIMIT,
    ModelRef,
    NewerFormatError,
    RecordUnreadableError,
    Reservation,
    ServingEntry,
    ServingRecord,
    alias_synced,
    check_writable,
    config_map_name,
    decode,
    drop_outcomes,
    encode,
    keep_outcome,
    note_alias,
    of_config_map,
    release,
    reserve,
)


def model(version: str, schema: str = "s", **fields: Any) -> ModelRef:
    return ModelRef(version=version, digest=version * 64, schema_fingerprint=schema, **fields)


def entry(version: str, epoch: int, schema: str = "s", **fields: Any) -> ServingEntry:
    place = {"epoch": epoch, "by": f"request-{epoch}", "at": "then", "act": "promote"} | fields
    return ServingEntry(**model(version, schema).model_fields(), **place)


def row(request: str, **fields: Any) -> Attempt:
    return Attempt(request=request, requested_by="ada", at="then", **fields)


def unconfirmed(request: str) -> Attempt:
    """Return the row that a commit keeps until its promoter has reported."""
    return row(request, outcome="unconfirmed")


# Version 2 serves. It replaced version 1, and version 0 served before that.
SERVING = ServingRecord(
    current=entry("2", 3),
    previous=entry("1", 2),
    stack=(entry("1", 2), entry("0", 1)),
    unwritten=(unconfirmed("request-3"),),
    highest_reserved=3,
)


def versions(entries: tuple[ServingEntry, ...]) -> list[str]:
    return [each.version for each in entries]


def committed(record: ServingRecord, change: Promote | Rollback, epoch: int = 9) -> ServingRecord:
    wanted = changes.reservation(change, epoch, "mine", "ada", "now")
    return changes.commit(reserve(record, wanted), unconfirmed("mine"))


# -- a promotion


def test_a_commit_turns_the_reservation_into_the_entry_that_serves() -> None:
    promoted = model("3", verdict={"passed": True}, waiver={"reason": "r"}, sample=True)
    wanted = changes.reservation(Promote(promoted, "rollout"), 9, "mine", "ada", "now")
    assert (wanted.model, wanted.act) == (promoted, "promote")
    later = msgspec.structs.replace(wanted, unknown={"field_of_a_later_release": 1})
    record = changes.commit(reserve(SERVING, later), unconfirmed("mine"))
    assert record.current == ServingEntry(
        **promoted.model_fields(),
        epoch=9,
        by="mine",
        at="now",
        requested_by="ada",
        act="promote",
        strategy="rollout",
        unknown={"field_of_a_later_release": 1},
    )
    assert record.current.undo is False
    assert (record.reserved, record.previous) == (None, SERVING.current)
    assert versions(record.stack) == ["2", "1", "0"]
    assert record.unwritten[-1] == unconfirmed("mine")


def test_the_first_promotion_has_no_way_back() -> None:
    record = committed(EMPTY, Promote(model("1"), "broadcast"), 1)
    assert (record.epoch, record.previous, record.stack) == (1, None, ())
    assert changes.way_back(record) is None


def test_a_new_epoch_of_the_model_that_serves_is_no_way_back_to_itself() -> None:
    record = committed(SERVING, Promote(model("2"), "broadcast"))
    assert (record.epoch, versions(record.stack)) == (9, ["1", "0"])


def test_the_stack_keeps_the_newest_entries() -> None:
    full = tuple(entry(str(n % 7), 100 - n) for n in range(STACK_LIMIT))
    before = msgspec.structs.replace(SERVING, stack=full)
    assert committed(before, Promote(model("3"), "broadcast")).stack == (
        before.current,
        *full[:-1],
    )


def test_a_commit_without_a_reservation_is_an_error() -> None:
    with pytest.raises(FraudopsError, match="no reservation"):
        changes.commit(SERVING, unconfirmed("mine"))


# -- the schema


@pytest.mark.parametrize(
    ("record", "changed"),
    [(EMPTY, False), (SERVING, False), (ServingRecord(current=entry("2", 3, "old")), True)],
    ids=["no version serves", "the same schema", "another schema"],
)
def test_another_schema_than_that_of_the_serving_model_needs_a_rollout(
    record: ServingRecord, changed: bool
) -> None:
    wanted = model("3")
    assert changes.changes_schema(record, wanted) is changed
    assert changes.decide_promotion(record, wanted, "rollout") == Promote(wanted, "rollout")
    if changed:
        with pytest.raises(RefusedError, match="`--strategy rollout`"):
            changes.decide_promotion(record, wanted, "broadcast")
    else:
        assert changes.decide_promotion(record, wanted, "broadcast").strategy == "broadcast"


# -- a rollback


def test_a_rollback_pops_the_stack_and_pushes_nothing() -> None:
    change = changes.decide_rollback(SERVING)
    assert (change.act, change.model.version, change.strategy) == ("rollback", "1", "broadcast")
    record = committed(SERVING, change)
    assert record.current is not None
    assert (record.current.act, record.current.version) == ("rollback", "1")
    assert (record.previous, versions(record.stack)) == (SERVING.current, ["0"])


def test_a_rollback_skips_entries_of_the_model_that_serves() -> None:
    stack = (entry("2", 2), entry("1", 1), entry("0", 0))
    before = msgspec.structs.replace(SERVING, stack=stack)
    assert changes.way_back(before) == entry("1", 1)
    record = committed(before, changes.decide_rollback(before))
    assert (record.current and record.current.version, versions(record.stack)) == ("1", ["0"])


def test_a_version_with_another_bundle_is_another_model() -> None:
    rebuilt = msgspec.structs.replace(entry("2", 2), digest="9" * 64)
    before = msgspec.structs.replace(SERVING, stack=(rebuilt,))
    assert changes.way_back(before) == rebuilt


# -- an undo


def test_an_undo_restores_the_record_from_before_the_promotion() -> None:
    before = msgspec.structs.replace(SERVING, stack=(*SERVING.stack, entry("5", 0)))
    undo = changes.decide_undo(before, "request-3")
    assert undo == Undo(entry("2", 3), entry("1", 2))
    reserved = reserve(before, changes.reservation(Promote(model("5"), "rollout"), 4, "b", "", ""))
    failed = row("request-3", outcome="failed")
    record = changes.commit_undo(reserved, undo, 9, "now", failed)
    assert record.current == entry("1", 9, by="request-3", at="now", act="undo", undo=True)
    # The failed version is not in the stack: a rollback does not lead to it.
    assert (versions(record.stack), record.previous) == (["0", "5"], entry("0", 1))
    assert (record.reserved, record.unwritten) == (None, (failed,))


def test_after_an_undo_of_the_second_promotion_there_is_no_way_back() -> None:
    record = msgspec.structs.replace(SERVING, stack=(entry("1", 2),))
    undo = changes.decide_undo(record, "request-3")
    assert undo is not None
    undone = changes.commit_undo(record, undo, 9, "now", row("request-3"))
    assert (undone.stack, undone.previous) == ((), None)


def test_an_undo_is_never_undone() -> None:
    undo = changes.decide_undo(SERVING, "request-3")
    assert undo is not None
    undone = changes.commit_undo(SERVING, undo, 9, "now", unconfirmed("request-3"))
    assert changes.decide_undo(undone, "request-3") is None


@pytest.mark.parametrize(
    "change",
    [
        {"current": None},
        {"previous": None},
        {"current": entry("2", 3, by="another request")},
        {"current": entry("2", 3, act="rollback")},
        {"previous": entry("2", 2)},
        {"previous": entry("1", 2, schema="other")},
        {"unwritten": ()},
        {"unwritten": (unconfirmed("another request"),)},
        {"unwritten": (row("request-3", outcome="unconfirmed", finished_at="now"),)},
        {"unwritten": (row("request-3", outcome="done"),)},
        {"unwritten": (row("request-3"),)},
    ],
    ids=[
        "nothing serves",
        "it replaced nothing",
        "the act of another request",
        "a rollback",
        "the same model",
        "another schema",
        "its row is written",
        "the row of another request",
        "its promoter has reported",
        "an outcome of release 0.2.0",
        "only started",
    ],
)
def test_only_the_own_unreported_promotion_is_undone(change: dict[str, Any]) -> None:
    assert changes.decide_undo(msgspec.structs.replace(SERVING, **change), "request-3") is None


# -- the record


def test_a_reservation_keeps_the_epoch_of_the_first_try() -> None:
    wanted = changes.reservation(Promote(model("3"), "broadcast"), 4, "mine", "ada", "now")
    first = reserve(SERVING, wanted)
    again = reserve(first, msgspec.structs.replace(wanted, epoch=6))
    assert (first.first_reservation("mine"), again.first_reservation("mine")) == (4, 4)
    assert again.first_reservation("another") is None
    assert (again.reserved and again.reserved.epoch, again.highest_epoch) == (6, 6)
    # A refused act has used its epoch.
    assert (release(again).reserved, release(again).highest_epoch) == (None, 6)


def test_the_record_remembers_the_newest_requests() -> None:
    record = EMPTY
    for epoch in range(1, REQUEST_LIMIT + 2):
        change = Promote(model("3"), "broadcast")
        wanted = changes.reservation(change, epoch, f"request {epoch}", "", "")
        record = reserve(record, wanted)
    assert len(record.requests) == REQUEST_LIMIT
    assert record.first_reservation("request 1") is None
    assert record.first_reservation("request 2") == 2


def test_the_highest_epoch_is_that_of_the_entry_after_a_record_was_restored() -> None:
    assert ServingRecord(current=entry("1", 5), highest_reserved=2).highest_epoch == 5
    assert (EMPTY.highest_epoch, EMPTY.epoch) == (0, 0)


def test_the_record_keeps_one_row_for_each_request_until_it_is_written() -> None:
    first, other, second = row("a"), row("b"), row("a", outcome="done")
    record = EMPTY
    for each in (first, other, second):
        record = keep_outcome(record, each)
    assert record.unwritten == (other, second)
    assert drop_outcomes(record, (first, second)).unwritten == (other,)


def test_the_record_keeps_the_newest_rows_only() -> None:
    rows = tuple(row(str(n)) for n in range(UNWRITTEN_LIMIT))
    record = keep_outcome(ServingRecord(unwritten=rows), row("new"))
    assert record.unwritten == (*rows[1:], row("new"))


def test_at_the_limit_the_oldest_row_of_an_act_that_changed_nothing_gives_way() -> None:
    done, refused, *more = (row(str(n), outcome="done") for n in range(UNWRITTEN_LIMIT))
    refused = msgspec.structs.replace(refused, outcome="refused")
    last = msgspec.structs.replace(more.pop(), outcome="refused")
    full = keep_outcome(ServingRecord(unwritten=(done, refused, *more)), last)
    assert full.unwritten == (done, refused, *more, last)
    new = row("new", outcome="done")
    assert keep_outcome(full, new).unwritten == (done, *more, last, new)


def test_no_model_is_the_same_as_none() -> None:
    assert not model("3").is_same_model(None)


def test_the_alias_is_wrong_until_it_was_read_back_for_the_current_epoch() -> None:
    late = msgspec.structs.replace(SERVING, alias_epoch=2, alias_note="an old note")
    assert "does not follow epoch 3" in str(late.alias_error)
    synced = alias_synced(late, None)
    assert (synced.alias_epoch, synced.alias_error) == (3, None)
    assert alias_synced(late, "deleted").alias_error == "deleted"
    assert note_alias(synced, "moved by hand").alias_error == "moved by hand"
    assert note_alias(late, None).alias_epoch == 2


def test_entries_and_reservations_name_their_target() -> None:
    wanted = changes.reservation(Promote(model("3"), "broadcast"), 4, "mine", "ada", "now")
    assert str(wanted.target) == f"4/3/{'3' * 64}"
    assert entry("2", 3).target.epoch == 3
    assert entry("2", 3).model == model("2")


# -- the stored form


def test_a_stored_record_is_read_back_with_the_fields_of_a_later_release() -> None:
    wanted = changes.reservation(Promote(model("3"), "rollout"), 4, "mine", "ada", "now")
    noted = note_alias(alias_synced(reserve(SERVING, wanted), None), "moved by hand")
    record = msgspec.structs.replace(noted, unknown={"later": [1]})
    stored = json.loads(encode(record))
    assert (stored["format"], stored["later"]) == (2, [1])
    # Pods of release 0.2.0 read these names.
    assert (stored["mirrored"], stored["alias_moved"]) == (3, "moved by hand")
    read = decode(encode(record))
    assert read == msgspec.structs.replace(record, format=2)
    assert of_config_map({"data": {CONFIG_MAP_KEY: encode(record).decode()}}) == read


@pytest.mark.parametrize("found", [{}, {"data": None}, {"data": {}}, {"data": {"other": "x"}}])
def test_a_config_map_without_a_record_is_the_empty_record(found: dict[str, Any]) -> None:
    assert of_config_map(found) == EMPTY


def test_the_config_map_is_named_after_the_release() -> None:
    assert config_map_name("mine") == "mine-serving"
    assert CONFIG_MAP_KEY == "serving.json"


def test_a_newer_format_is_read_and_never_written() -> None:
    newer = decode(encode(SERVING).replace(b'"format":2', b'"format":3'))
    assert newer.current == SERVING.current
    for write in (check_writable, encode):
        with pytest.raises(NewerFormatError, match="format 3") as refused:
            write(newer)
        assert refused.value.exit_code == 65
    check_writable(SERVING)


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"current": {"epoch": "x"}}'])
def test_what_is_no_record_is_an_error(data: bytes) -> None:
    with pytest.raises(RecordUnreadableError, match="Restore it from a backup"):
        decode(data)


def old_entry(version: str, epoch: int, **fields: Any) -> dict[str, Any]:
    fields = {"by": f"request-{epoch}", "at": "then", "requested_by": "ada"} | fields
    place = {"version": version, "digest": version * 64, "schema_fingerprint": "s"}
    return place | {"epoch": epoch, "strategy": "rollout"} | fields


def test_a_record_of_release_0_2_0_keeps_a_row_for_each_of_its_acts() -> None:
    older, old = old_entry("0", 1), old_entry("1", 2)
    document = {"current": old_entry("2", 3), "previous": old, "stack": [old, older]}
    record = decode(json.dumps(document).encode())
    assert record.format == 1
    assert [kept.request for kept in record.unwritten] == ["request-1", "request-2", "request-3"]
    assert record.unwritten[-1] == row(
        "request-3",
        strategy="rollout",
        version="2",
        digest="2" * 64,
        epoch=3,
        outcome="done",
    )
    # What that release has reported is unknown, so the promotion must not be undone.
    assert changes.decide_undo(record, "request-3") is None
    # The first write changes the format. The rows are then in the record.
    assert decode(encode(record)) == msgspec.structs.replace(record, format=2)


def test_an_undo_of_release_0_2_0_is_known_as_one_and_has_no_row() -> None:
    undone = old_entry("1", 4, undo=True)
    document = {"current": undone, "previous": undone, "stack": [undone, old_entry("0", 1)]}
    record = decode(json.dumps(document).encode())
    assert record.current is not None
    assert record.previous is not None
    acts = (record.current.act, record.previous.act, [each.act for each in record.stack])
    assert acts == ("undo", "undo", ["undo", "promote"])
    assert [kept.request for kept in record.unwritten] == ["request-1"]
    assert changes.decide_undo(record, "request-4") is None


def test_an_act_that_a_later_release_names_stays_as_it_is() -> None:
    document = {"format": 2, "current": old_entry("1", 4, act="another")}
    record = decode(json.dumps(document).encode())
    assert record.current is not None
    assert (record.current.act, record.unwritten) == ("another", ())


def test_an_undo_of_release_0_2_0_is_one_although_its_entry_keeps_another_act() -> None:
    """That release copies the entry that it goes back to, with the field `act`."""
    undone = old_entry("1", 4, act="rollback", undo=True)
    record = decode(json.dumps({"format": 2, "current": undone}).encode())
    assert record.current is not None
    assert (record.current.act, record.unwritten) == ("undo", ())


def test_acts_of_release_0_2_0_during_a_downgrade_have_rows_in_a_record_of_this_format() -> None:
    record = msgspec.structs.replace(SERVING, unwritten=(unconfirmed("request-3"),))
    document = json.loads(encode(record))
    # What 0.2.0 leaves after two promotions: it keeps the fields that it does not know.
    document["stack"] = [old_entry("3", 4), document["current"], *document["stack"]]
    document |= {"current": old_entry("4", 5), "previous": document["stack"][0]}
    read = decode(json.dumps(document).encode())
    assert read.format == 2
    assert [kept.request for kept in read.unwritten] == ["request-3", "request-4", "request-5"]
    assert read.unwritten[0] == unconfirmed("request-3")
    assert {kept.outcome for kept in read.unwritten[1:]} == {"done"}
    # A row that is in the record already stays. The next write names the acts.
    failed = row("request-5", outcome="failed", finished_at="now")
    document["unwritten"] = [{"request": "request-5", "requested_by": "ada", "at": "then"}]
    document["unwritten"][0] |= {"outcome": "failed", "finished_at": "now"}
    read = decode(json.dumps(document).encode())
    assert [kept for kept in read.unwritten if kept.request == "request-5"] == [failed]
    assert decode(encode(drop_outcomes(read, read.unwritten))).unwritten == ()


def test_the_act_of_every_entry_and_reservation_is_written() -> None:
    wanted = changes.reservation(Promote(model("3"), "broadcast"), 4, "mine", "ada", "now")
    stored = json.loads(encode(reserve(SERVING, wanted)))
    places = (stored["current"], stored["previous"], stored["reserved"], *stored["stack"])
    assert {place["act"] for place in places} == {"promote"}


@pytest.mark.parametrize(("rollback", "act"), [(True, "rollback"), (False, "promote")])
def test_a_reservation_of_release_0_2_0_says_whether_it_is_a_rollback(
    rollback: bool, act: str
) -> None:
    document = {"reserved": old_entry("1", 4) | ({"rollback": True} if rollback else {})}
    record = decode(json.dumps(document).encode())
    assert record.reserved is not None
    assert record.reserved.act == act


def test_a_record_holds_plain_defaults() -> None:
    place = {"epoch": 1, "by": "a", "at": "then"}
    plain = ServingEntry(**model("1").model_fields(), **place)
    wanted = Reservation(**model("1").model_fields(), **place, strategy="rollout")
    assert (plain.act, plain.strategy) == ("", "broadcast")
    assert (plain.undo, plain.sample) == (False, False)
    assert (plain.requested_by, wanted.requested_by, wanted.act) == ("", "", "")


def test_a_record_without_fields_says_that_no_version_serves() -> None:
    record = decode(b"{}")
    assert (record.epoch, record.alias_epoch, record.highest_reserved) == (0, 0, 0)
    assert (record.format, record.alias_error, record.unwritten) == (1, None, ())
