"""Rows that only the serving record has, within the history of promotions."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from fraudops.promotion.attempt import Attempt, Outcome
from fraudops.promotion.history import PastAct, with_unwritten
from jobs.promotions import as_mapping, show

START = datetime(2026, 11, 29, 10, 0, tzinfo=UTC)
STORED = PastAct(
    request="one",
    started_at=START,
    finished_at=START + timedelta(seconds=2.5),
    act="promote",
    from_version="1",
    to_version="2",
    to_digest="d",
    epoch=2,
    strategy="broadcast",
    requested_by="ada",
    outcome="done",
    reason=None,
    waiver_reason=None,
    behind=(),
)


def kept(request: str, minute: int, outcome: Outcome, finished: bool = True) -> Attempt:
    at = f"2026-11-29T10:{minute:02d}:00.000+00:00"
    return Attempt(
        request=request,
        requested_by="ada",
        at=at,
        act="rollback",
        version="1",
        from_version="2",
        outcome=outcome,
        behind=("pod-a",),
        finished_at=f"2026-11-29T10:{minute:02d}:01.500+00:00" if finished else None,
    )


def seen(acts: list[PastAct]) -> list[tuple[str, str, bool]]:
    return [(act.request, act.outcome, act.written) for act in acts]


def test_kept_rows_are_in_their_place_and_within_the_limit() -> None:
    unwritten = [kept("three", 3, "done"), kept("zero", 0, "failed")]
    older = replace(STORED, request="older", started_at=START - timedelta(hours=1))
    acts = with_unwritten([STORED, older], unwritten, 3)
    assert [act.request for act in acts] == ["three", "one", "zero"]
    assert (acts[0].seconds, acts[0].behind, acts[0].written) == (1.5, ("pod-a",), False)


def test_a_kept_outcome_replaces_its_stored_row_as_it_will_in_postgresql() -> None:
    started = replace(STORED, outcome="started", finished_at=None)
    provisional, final = kept("one", 0, "unconfirmed", False), kept("one", 0, "failed")
    assert seen(with_unwritten([started], [provisional], 9)) == [("one", "unconfirmed", False)]
    assert seen(with_unwritten([STORED], [provisional], 9)) == [("one", "done", True)]
    assert seen(with_unwritten([started], [final], 9)) == [("one", "failed", False)]
    # What was reported as done stays.
    assert seen(with_unwritten([STORED], [final], 9)) == [("one", "done", True)]


def test_a_row_of_an_earlier_release_has_no_act_and_a_running_one_no_duration() -> None:
    running = replace(STORED, act=None, finished_at=None)
    assert as_mapping(running)["act"] is None
    assert as_mapping(running)["seconds"] is None
    assert as_mapping(STORED)["seconds"] == 2.5


def test_each_act_is_one_line_with_its_reasons_and_the_pods_that_no_reason_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    act = replace(
        STORED,
        outcome="unconfirmed",
        reason="not confirmed by pod-a (not ready)",
        waiver_reason="an [emergency]",
        behind=("pod-a", "pod-b"),
        written=False,
    )
    show([act, replace(STORED, act=None, from_version=None, finished_at=None)], "")
    assert capsys.readouterr().out.splitlines() == [
        "2026-11-29 10:00:00Z  unconfirmed  promote 1 → 2 by broadcast, requested by ada "
        "(not authenticated), took 2.5 s",
        "    not confirmed by pod-a (not ready)",
        "    gates waived: an [emergency]",
        "    behind: pod-b",
        "    not written to PostgreSQL yet",
        "2026-11-29 10:00:00Z  done         promote or rollback 2 by broadcast, requested by ada "
        "(not authenticated)",
    ]


@pytest.mark.parametrize(
    ("actor", "authenticated", "shown"),
    [
        ("ada", True, "ada"),
        ("ada", False, "ada (not authenticated)"),
        (None, False, "ada (not authenticated)"),
        ("system:x", True, "ada (system:x)"),
        ("system:x", False, "ada (system:x, not authenticated)"),
    ],
)
def test_a_requester_whose_name_nothing_proves_is_marked(
    actor: str | None, authenticated: bool, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show([replace(STORED, actor=actor, authenticated=authenticated, finished_at=None)], "")
    assert capsys.readouterr().out.strip().endswith(f"requested by {shown}")


def test_approver_and_signer_are_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    attempt = msgspec.structs.replace(
        kept("two", 1, "done"), actor="ada", authenticated=True, approver="eve", signer="12ab"
    )
    show(with_unwritten([], [attempt], 1), "")
    first, *lines = capsys.readouterr().out.splitlines()
    assert "requested by ada, took" in first
    assert lines[:2] == ["    approved by eve", "    verdict signed by key 12ab"]


def test_a_reason_cannot_add_a_line_to_the_history(capsys: pytest.CaptureFixture[str]) -> None:
    forged = replace(STORED, reason=None, waiver_reason="ok\n    approved by alice\x1b[2K")
    show([forged], "")
    printed = capsys.readouterr().out
    assert not any(line.strip().startswith("approved by") for line in printed.splitlines())
    assert "\x1b" not in printed


def test_an_empty_history_says_how_to_begin(capsys: pytest.CaptureFixture[str]) -> None:
    show([], " --on-cluster")
    assert "`fraudops promote --version latest --on-cluster`" in capsys.readouterr().out
