"""Which row of a request the table of promotions keeps, and what a row says without its fields."""

import pytest
from msgspec.structs import replace

from fraudops.extensible import decode_document
from fraudops.promotion.attempt import Attempt, replaces

ENDED = "2026-11-29T10:00:02.000+00:00"


def row(outcome: str, epoch: int | None = None) -> Attempt:
    """Return a row that a promoter has reported."""
    return Attempt(
        request="one",
        requested_by="ada",
        at="2026-11-29T10:00:00.000+00:00",
        outcome=outcome,
        epoch=epoch,
        finished_at=ENDED,
    )


def provisional(outcome: str, epoch: int | None = None) -> Attempt:
    """Return a row that only the serving record implies."""
    return replace(row(outcome, epoch), finished_at=None)


STARTED = provisional("started")


@pytest.mark.parametrize("stored", [STARTED, row("refused"), row("done", 2)])
def test_a_start_replaces_nothing(stored: Attempt) -> None:
    assert not replaces(STARTED, stored)
    assert not replaces(replace(STARTED, epoch=9), stored)


@pytest.mark.parametrize(
    "new",
    [
        row("refused"),
        row("unchanged"),
        row("done", 2),
        row("unconfirmed", 2),
        provisional("unconfirmed", 2),
        provisional("overtaken"),
    ],
)
def test_every_outcome_replaces_a_start(new: Attempt) -> None:
    assert replaces(new, STARTED)
    assert replaces(new, replace(STARTED, epoch=2))


@pytest.mark.parametrize("stored", [row("done", 2), row("failed", 2), row("overtaken", 2)])
@pytest.mark.parametrize("outcome", ["done", "failed", "unconfirmed", "overtaken"])
def test_only_a_later_commit_replaces_a_final_report(stored: Attempt, outcome: str) -> None:
    for report in (row, provisional):
        assert not replaces(report(outcome, 2), stored)
        assert not replaces(report(outcome), stored)
        assert replaces(report(outcome, 3), stored)
    for nothing in ("refused", "unchanged"):
        assert not replaces(row(nothing, 3), stored)


@pytest.mark.parametrize("stored", [row("unconfirmed", 2), provisional("done", 2)])
def test_a_promoters_commit_replaces_what_is_not_final(stored: Attempt) -> None:
    for outcome in ("done", "failed", "unconfirmed", "overtaken"):
        assert replaces(row(outcome, 2), stored)
        # Only the promoter knows more about the same commit than the stored row.
        assert not replaces(provisional(outcome, 2), stored)
        assert replaces(provisional(outcome, 3), stored)


@pytest.mark.parametrize("nothing", ["refused", "unchanged"])
def test_a_try_without_a_commit_does_not_hide_the_commit_of_another_try(nothing: str) -> None:
    for stored in (row("unconfirmed", 2), provisional("done", 2), provisional("overtaken", 2)):
        assert not replaces(row(nothing, 2), stored)
        assert not replaces(row(nothing), stored)


@pytest.mark.parametrize(
    "stored",
    # The table stores `unchanged` as `done`, without an epoch of its own.
    [row("refused"), row("refused", 1), row("unchanged", 1), row("done"), row("unconfirmed")],
)
def test_every_report_replaces_one_without_a_commit(stored: Attempt) -> None:
    for new in (row("refused"), row("unchanged"), row("failed", 2), row("done")):
        assert replaces(new, stored)


def test_a_commit_that_only_the_record_has_replaces_one_without_a_commit() -> None:
    for stored in (row("refused"), row("done"), row("overtaken")):
        assert replaces(provisional("unconfirmed", 1), stored)
        assert not replaces(provisional("unconfirmed"), stored)
        assert not replaces(provisional("refused", 1), stored)


def test_only_a_reported_end_is_not_provisional() -> None:
    assert not STARTED.is_provisional
    assert not row("done", 2).is_provisional
    assert provisional("done", 2).is_provisional


def test_a_row_that_says_nothing_more_is_a_promotion_that_has_started() -> None:
    found = decode_document(b'{"request":"one","requested_by":"ada","at":"now"}', Attempt)
    assert (found.act, found.strategy, found.outcome) == ("promote", "broadcast", "started")
    # Nothing has compared the name with the caller's credentials.
    assert not found.authenticated
