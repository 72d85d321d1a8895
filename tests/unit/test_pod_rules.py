"""The decisions of a pod: what it does with a record, an annotation, a prepare and a restart."""

import json

import msgspec
import pytest

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from fraudops.extensible import decode_document, encode_document
from fraudops.promotion.pod_rules import (
    ANY,
    KEPT,
    Follow,
    PodState,
    Report,
    Stay,
    awaited_target,
    check_prepare,
    check_step,
    destination,
    has_caught_up,
    is_ready_without_model,
    keeps_prepared,
    may_turn_ready,
    on_activate,
    on_failed_template,
    on_record,
    on_start,
    replaces_prepared,
)
from fraudops.promotion.serving_record import (
    EMPTY,
    ServingRecord,
    ServingTarget,
    release,
)
from tests.support.serving_records import record


def target(epoch: int, version: str = "1", digest: str | None = None) -> ServingTarget:
    return ServingTarget(epoch, version, digest or version * 64)


def serving(at: ServingTarget) -> PodState:
    return PodState().serving(at, "registry")


def nothing_at(epoch: int) -> PodState:
    return PodState(epoch=epoch)


# The record is at epoch 4 with version 1. A rollout makes its pods for epoch 5 with version 2.
AT_4, AT_5 = target(4, "1"), target(5, "2")
RENAMED_4 = ServingTarget(4, "9", AT_4.digest)
OTHER_4 = ServingTarget(4, AT_4.version, "9" * 64)
CURRENT, RESERVED = record(AT_4), record(AT_4, AT_5)


# The pod's state.


@pytest.mark.parametrize(
    ("state", "served"),
    [
        (PodState(), None),
        (nothing_at(4), None),
        (PodState(epoch=4, version="1"), None),
        (PodState(epoch=4, digest="1" * 64), None),
        (PodState(epoch=4, version="1", digest="1" * 64), AT_4),
    ],
)
def test_a_pod_serves_a_target_only_with_version_and_digest(
    state: PodState, served: ServingTarget | None
) -> None:
    assert state.target == served


@pytest.mark.parametrize(
    ("state", "epoch", "behind"),
    [
        (PodState(), 0, False),
        (PodState(), 1, True),
        (nothing_at(1), 1, True),
        (nothing_at(4), 3, False),
        (nothing_at(4), 4, True),
        (serving(AT_4), 3, False),
        (serving(AT_4), 4, False),
        (serving(AT_4), 5, True),
    ],
)
def test_a_pod_is_behind_an_epoch_whose_model_it_has_yet_to_serve(
    state: PodState, epoch: int, behind: bool
) -> None:
    assert state.is_behind(epoch) is behind


def test_a_pod_keeps_the_digests_of_the_last_models_newest_first_and_once() -> None:
    assert KEPT == 3
    state = PodState()
    for epoch, version in enumerate("123245", start=1):
        state = state.serving(target(epoch, version), "peer")
    assert state.target == target(6, "5")
    assert state.source == "peer"
    assert state.served == ("4" * 64, "2" * 64, "3" * 64)


def test_a_model_that_serves_again_is_no_earlier_model() -> None:
    again = serving(AT_4).serving(target(5, "1"), "cache")
    assert again.served == ()
    # What the pod served before is not lost when it serves nothing for a time.
    assert PodState(served=("2" * 64,)).serving(AT_4, "cache").served == ("2" * 64,)


def test_a_pod_without_a_model_stays_at_its_epoch() -> None:
    left = serving(AT_4).without_model(("2" * 64,))
    assert left == PodState(epoch=4, served=("2" * 64,))


def test_the_state_is_stored_in_the_form_of_release_0_2_0() -> None:
    stored = {
        "epoch": 4,
        "version": "1",
        "digest": "1" * 64,
        "source": "registry",
        "served": ["2" * 64],
        # That release keeps the field, and does not read it.
        "restarted": False,
    }
    state = msgspec.structs.replace(serving(AT_4), served=("2" * 64,))
    assert json.loads(encode_document(state)) == stored
    assert decode_document(json.dumps(stored).encode(), PodState) == state


# Where the record sends a pod.


@pytest.mark.parametrize(
    ("found", "template", "sent_to"),
    [
        (EMPTY, None, None),
        (EMPTY, AT_5, None),
        (CURRENT, None, AT_4),
        (CURRENT, AT_5, AT_4),
        (RESERVED, None, AT_4),
        (RESERVED, AT_5, AT_5),
        (RESERVED, target(6, "2"), AT_4),
        (RESERVED, target(5, "3"), AT_4),
        (RESERVED, ServingTarget(5, "3", AT_5.digest), AT_4),
        (record(None, AT_5), AT_5, AT_5),
        (record(None, AT_5), None, None),
        (record(AT_5), AT_5, AT_5),
        (record(target(6, "3")), AT_5, target(6, "3")),
    ],
)
def test_a_template_counts_only_while_the_record_reserves_the_same_target(
    found: ServingRecord, template: ServingTarget | None, sent_to: ServingTarget | None
) -> None:
    assert destination(found, template) == sent_to


# The one rule of every swap.


@pytest.mark.parametrize(
    ("now", "step"),
    [
        (PodState(), AT_4),
        (nothing_at(4), AT_4),
        (nothing_at(4), OTHER_4),
        (serving(AT_4), AT_4),
        (serving(AT_4), AT_5),
        (serving(AT_4), target(9, "1")),
    ],
)
def test_a_pod_may_go_to_its_own_target_and_to_higher_epochs(
    now: PodState, step: ServingTarget
) -> None:
    check_step(now, step)
    check_prepare(now, step)


@pytest.mark.parametrize(
    ("now", "step", "reason"),
    [
        (serving(AT_5), AT_4, "epoch 4 is behind epoch 5"),
        (nothing_at(5), AT_4, "epoch 4 is behind epoch 5"),
        (serving(AT_4), OTHER_4, "epoch 4 is served already, with another model"),
        (serving(AT_4), RENAMED_4, "epoch 4 is served already, with another model"),
    ],
)
def test_epochs_never_go_down_and_one_epoch_is_one_model(
    now: PodState, step: ServingTarget, reason: str
) -> None:
    for check in (check_step, check_prepare):
        with pytest.raises(RefusedError, match=reason):
            check(now, step)


def test_a_prepare_without_an_epoch_is_not_checked() -> None:
    check_prepare(serving(AT_4), ServingTarget(0, "2", "2" * 64))
    with pytest.raises(RefusedError):
        check_step(serving(AT_4), ServingTarget(0, "2", "2" * 64))


# What the poller does.


@pytest.mark.parametrize(
    ("now", "found", "template", "step"),
    [
        (PodState(), EMPTY, None, Stay()),
        (PodState(), CURRENT, None, Follow(AT_4)),
        (PodState(), RESERVED, AT_5, Follow(AT_5)),
        (nothing_at(4), CURRENT, None, Follow(AT_4)),
        (serving(AT_4), CURRENT, None, Stay()),
        (serving(AT_4), RESERVED, None, Stay()),
        (serving(AT_4), RESERVED, AT_5, Follow(AT_5)),
        (serving(AT_5), RESERVED, AT_5, Stay()),
        (serving(AT_4), record(target(9, "1")), None, Follow(target(9, "1"))),
    ],
)
def test_a_pod_follows_a_record_that_is_ahead_of_it(
    now: PodState, found: ServingRecord, template: ServingTarget | None, step: Follow | Stay
) -> None:
    assert on_record(now, found, template) == step


@pytest.mark.parametrize(
    ("now", "found", "template", "reason"),
    [
        (serving(AT_5), CURRENT, None, "went back to epoch 4, this pod stays at 5"),
        (serving(AT_5), CURRENT, AT_5, "went back to epoch 4, this pod stays at 5"),
        (nothing_at(5), CURRENT, None, "went back to epoch 4, this pod stays at 5"),
        (serving(AT_4), EMPTY, None, "went back to epoch 0, this pod stays at 4"),
        (serving(AT_4), record(OTHER_4), None, "names another model for epoch 4"),
        (serving(AT_4), record(RENAMED_4), None, "names another model for epoch 4"),
    ],
)
def test_a_pod_reports_a_record_that_it_cannot_follow(
    now: PodState, found: ServingRecord, template: ServingTarget | None, reason: str
) -> None:
    step = on_record(now, found, template)
    assert isinstance(step, Report)
    assert reason in step.reason


# What a caller of /reload gets.


@pytest.mark.parametrize(
    ("now", "found", "template", "expected", "goes_to"),
    [
        (PodState(), CURRENT, None, ANY, AT_4),
        (serving(AT_4), CURRENT, None, ANY, AT_4),
        (PodState(), CURRENT, None, AT_4, AT_4),
        (PodState(), CURRENT, None, ServingTarget(3, "", ""), AT_4),
        (PodState(), CURRENT, None, ServingTarget(4, "", ""), AT_4),
        (PodState(), CURRENT, None, ServingTarget(0, "1", ""), AT_4),
        (PodState(), CURRENT, None, ServingTarget(0, "", AT_4.digest), AT_4),
        # The record has moved on, so the caller's model is no longer the one to serve.
        (PodState(), CURRENT, None, target(3, "9"), AT_4),
        (PodState(), RESERVED, AT_5, AT_5, AT_5),
    ],
)
def test_an_activation_goes_where_the_record_sends_the_pod(
    now: PodState,
    found: ServingRecord,
    template: ServingTarget | None,
    expected: ServingTarget,
    goes_to: ServingTarget,
) -> None:
    assert on_activate(now, found, template, expected) == goes_to


def test_an_activation_expects_nothing_by_default() -> None:
    assert on_activate(PodState(), CURRENT, None) == AT_4


@pytest.mark.parametrize(
    ("now", "found", "expected", "error", "reason"),
    [
        (PodState(), EMPTY, ANY, RefusedError, "no model has been promoted"),
        (PodState(), EMPTY, ServingTarget(1, "", ""), StoreDownError, "at epoch 0, not yet at 1"),
        (PodState(), CURRENT, AT_5, StoreDownError, "at epoch 4, not yet at 5"),
        (PodState(), RESERVED, AT_5, StoreDownError, "at epoch 4, not yet at 5"),
        (PodState(), CURRENT, ServingTarget(0, "9", ""), RefusedError, "names version 1"),
        (PodState(), CURRENT, ServingTarget(0, "", "9" * 64), RefusedError, "names version 1"),
        (PodState(), CURRENT, RENAMED_4, RefusedError, "names version 1"),
        (PodState(), CURRENT, OTHER_4, RefusedError, "names version 1"),
        (serving(AT_5), CURRENT, ANY, RefusedError, "epoch 4 is behind epoch 5"),
        (serving(OTHER_4), CURRENT, ANY, RefusedError, "epoch 4 is served already"),
    ],
)
def test_an_activation_that_cannot_be_says_whether_it_may_succeed_later(
    now: PodState,
    found: ServingRecord,
    expected: ServingTarget,
    error: type[FraudopsError],
    reason: str,
) -> None:
    with pytest.raises(error, match=reason):
        on_activate(now, found, None, expected)


@pytest.mark.parametrize(
    ("now", "found", "goes_to"),
    [
        (PodState(), RESERVED, AT_4),
        (nothing_at(4), RESERVED, AT_4),
        (serving(AT_4), RESERVED, None),
        (serving(AT_5), RESERVED, None),
        (PodState(), record(None, AT_5), None),
    ],
)
def test_a_pod_that_cannot_load_its_templates_target_takes_the_records_own(
    now: PodState, found: ServingRecord, goes_to: ServingTarget | None
) -> None:
    assert on_failed_template(now, found) == goes_to


# The start of a container.


@pytest.mark.parametrize(
    ("before", "found", "template", "planned"),
    [
        (PodState(), None, AT_5, None),
        (PodState(), EMPTY, AT_5, None),
        (PodState(), CURRENT, None, AT_4),
        (PodState(), RESERVED, AT_5, AT_5),
        (serving(target(3, "3")), CURRENT, None, AT_4),
        (nothing_at(4), CURRENT, None, AT_4),
        # It keeps what it served: the record cannot be read, has not moved, or went back.
        (serving(AT_4), None, None, AT_4),
        (serving(AT_4), CURRENT, None, AT_4),
        (serving(AT_4), record(OTHER_4), None, AT_4),
        (serving(AT_5), CURRENT, None, AT_5),
        (nothing_at(5), CURRENT, None, None),
    ],
)
def test_a_starting_container_serves_what_the_record_names_and_never_goes_back(
    before: PodState,
    found: ServingRecord | None,
    template: ServingTarget | None,
    planned: ServingTarget | None,
) -> None:
    state = on_start(before, found, template)
    assert state.target == planned
    assert state.epoch >= before.epoch
    moved = planned != before.target
    assert state.restarted == (before.target is not None)
    before = msgspec.structs.replace(before, restarted=state.restarted)
    assert state == (before.serving(planned, "cache") if moved and planned else before)


# Readiness.


@pytest.mark.parametrize(
    ("now", "found", "template", "awaited"),
    [
        (PodState(), EMPTY, None, None),
        (PodState(), CURRENT, None, AT_4),
        (PodState(), RESERVED, AT_5, AT_5),
        (PodState(), record(None, AT_5), AT_5, AT_5),
        (serving(AT_5), RESERVED, AT_5, AT_5),
        # A new pod of a rollout that could not load its template's target.
        (serving(AT_4), RESERVED, AT_5, AT_4),
        (nothing_at(4), RESERVED, AT_5, AT_5),
        (serving(AT_5), CURRENT, AT_5, AT_4),
        (serving(AT_4), record(AT_5), None, AT_5),
    ],
)
def test_a_pod_awaits_its_destination_or_the_records_own_target_once_it_serves_that(
    now: PodState,
    found: ServingRecord,
    template: ServingTarget | None,
    awaited: ServingTarget | None,
) -> None:
    assert awaited_target(now, found, template) == awaited


@pytest.mark.parametrize(
    ("now", "awaited", "caught_up"),
    [
        (PodState(), None, False),
        (nothing_at(4), None, False),
        (nothing_at(4), AT_4, False),
        (serving(AT_4), None, True),
        (serving(AT_4), AT_4, True),
        (serving(AT_4), AT_5, False),
        (serving(AT_5), AT_4, True),
    ],
)
def test_a_pod_has_caught_up_when_nothing_that_it_knows_is_ahead(
    now: PodState, awaited: ServingTarget | None, caught_up: bool
) -> None:
    assert has_caught_up(now, awaited) is caught_up


REFUSED_FIRST_ACT = release(record(None, AT_5))


@pytest.mark.parametrize(
    ("now", "awaited", "found", "ready"),
    [
        (PodState(), None, EMPTY, True),
        (PodState(restarted=True), None, EMPTY, True),
        # A first act is under way, or was refused.
        (PodState(), None, record(None, AT_5), True),
        (PodState(), None, REFUSED_FIRST_ACT, True),
        # Its new pods wait for the reserved model.
        (PodState(), AT_5, record(None, AT_5), False),
        # The record was deleted, or cannot be read.
        (PodState(), None, None, False),
        (PodState(), AT_4, CURRENT, False),
        (PodState(), None, CURRENT, False),
        (PodState(), None, ServingRecord(previous=CURRENT.current), False),
        (PodState(), None, msgspec.structs.replace(EMPTY, stack=(CURRENT.current,)), False),
        # The pod has served: the record went back.
        (serving(AT_4), None, EMPTY, False),
        (nothing_at(4), None, EMPTY, False),
    ],
)
def test_a_pod_needs_no_model_only_while_the_record_has_never_named_one(
    now: PodState, awaited: ServingTarget | None, found: ServingRecord | None, ready: bool
) -> None:
    assert is_ready_without_model(now, awaited, found) is ready


@pytest.mark.parametrize(
    ("now", "last_look", "ready"),
    [
        (PodState(), None, False),
        (PodState(), EMPTY, False),
        (nothing_at(4), CURRENT, False),
        # No promotion waits for a new pod, so it must have read the record.
        (serving(AT_4), None, False),
        (msgspec.structs.replace(serving(AT_4), restarted=True), None, True),
        (PodState(restarted=True), None, False),
        (serving(AT_4), EMPTY, True),
        (serving(AT_4), CURRENT, True),
        (serving(AT_4), RESERVED, True),
        (serving(AT_4), record(AT_5), False),
        (serving(AT_5), CURRENT, True),
    ],
)
def test_the_last_look_keeps_a_pod_unready_after_a_commit_that_did_not_wait_for_it(
    now: PodState, last_look: ServingRecord | None, ready: bool
) -> None:
    assert may_turn_ready(now, last_look) is ready


# Prepared models.


@pytest.mark.parametrize(
    ("prepared", "kept"),
    [
        (target(3, "3"), False),
        (AT_4, False),
        (OTHER_4, False),
        (target(5, "1"), False),
        (AT_5, True),
        (ServingTarget(0, "2", "2" * 64), False),
    ],
)
def test_a_prepared_model_is_kept_until_the_pod_has_passed_its_epoch_or_serves_it(
    prepared: ServingTarget, kept: bool
) -> None:
    assert keeps_prepared(prepared, serving(AT_4)) is kept


@pytest.mark.parametrize(
    ("asked", "prepared", "applies"),
    [(4, 5, False), (5, 5, True), (6, 5, True), (0, 5, True), (0, 0, True), (5, 0, True)],
)
def test_a_late_message_of_an_earlier_promotion_does_not_end_a_later_preparation(
    asked: int, prepared: int, applies: bool
) -> None:
    assert replaces_prepared(target(asked, "2"), target(prepared, "2")) is applies
