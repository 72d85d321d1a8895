"""`fraudops models`: verdicts, the way back, and versions that the registry no longer has."""

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from fraudops.promotion.serving_record import EMPTY, ServingEntry, ServingRecord
from fraudops.registry import ModelVersion
from jobs.models import _table, describe_all, steps_back, verdict_of


def version(number: str, verdict: dict[str, Any] | None = None) -> ModelVersion:
    return ModelVersion(
        version=number,
        run_id="run",
        source="source",
        digest=number * 64,
        schema_fingerprint="s",
        verdict=verdict,
        aliases=(),
        created_at="2026-11-02T12:00:00Z",
        tags={},
    )


def entry(number: str, epoch: int, waiver: dict[str, Any] | None = None) -> ServingEntry:
    return ServingEntry(
        epoch=epoch,
        version=number,
        digest=number * 64,
        schema_fingerprint="s",
        by="a request",
        at="2026-11-01T12:00:00Z",
        waiver=waiver,
    )


@pytest.mark.parametrize(
    ("verdict", "shown"),
    [
        (None, "none"),
        ({"digest": "other", "passed": True}, "stale"),
        ({"digest": "3" * 64, "passed": True}, "passed"),
        ({"digest": "3" * 64, "passed": False}, "refused"),
    ],
)
def test_a_verdict_counts_only_for_its_digest(verdict: dict[str, Any] | None, shown: str) -> None:
    assert verdict_of(version("3", verdict)) == shown


def test_the_steps_back_are_those_of_repeated_rollbacks() -> None:
    stack = (entry("3", 5), entry("2", 4), entry("2", 3), entry("1", 2), entry("2", 1))
    record = ServingRecord(current=entry("3", 6), stack=stack)
    assert [step.epoch for step in steps_back(record)] == [4, 2, 1]
    rows = describe_all([version("3"), version("2"), version("1")], record)
    # The nearest step counts.
    assert [(row["version"], row["serving"], row["back"]) for row in rows] == [
        ("3", True, None),
        ("2", False, 1),
        ("1", False, 2),
    ]


def test_versions_that_only_the_record_has_are_listed_as_deleted() -> None:
    waiver = {"reason": "an emergency"}
    record = ServingRecord(current=entry("10", 3, waiver), stack=(entry("9", 2), entry("1", 1)))
    rows = describe_all([version("11"), version("1")], record)
    seen = [(row["version"], row["deleted"], row["verdict"], row["back"]) for row in rows]
    assert seen == [
        ("11", False, "none", None),
        ("10", True, "waived", None),
        ("9", True, "passed", 1),
        ("1", False, "none", 2),
    ]


def test_a_waiver_of_the_last_promotion_is_shown_for_exactly_its_bundle() -> None:
    waiver = {"reason": "an emergency"}
    passed = version("3", {"digest": "3" * 64, "passed": True})
    waived = ServingRecord(current=entry("3", 2, waiver), stack=(entry("3", 1),))
    (row,) = describe_all([passed], waived)
    assert row["verdict"] == "waived"
    later = ServingRecord(current=entry("3", 2), stack=(entry("3", 1, waiver),))
    assert describe_all([passed], later)[0]["verdict"] == "passed"
    other = ServingRecord(current=entry("4", 2, waiver))
    assert describe_all([passed], other)[1]["verdict"] == "passed"
    assert describe_all([passed], EMPTY)[0]["verdict"] == "passed"


def test_a_forged_digest_is_shown_as_it_is() -> None:
    """Any client of MLflow may write the tag, and the table reads markup."""
    rows = describe_all([replace(version("1"), digest="[/red]")], EMPTY)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(_table(rows))
    assert "[/red]" in console.export_text()
