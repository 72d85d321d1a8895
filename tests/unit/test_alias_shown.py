"""`status` shows how the registry differs from the record, and what is unsigned."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from fraudops.cluster.overview import Overview
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.mirror import alias_moved
from fraudops.promotion.serving_record import ServingEntry, ServingRecord
from fraudops.state import State
from jobs.cluster_status import as_mapping, show
from services.supervisor.display import status_details
from services.supervisor.status import report

ENTRY = ServingEntry(
    epoch=4, version="7", digest="d", schema_fingerprint="s", by="job", at="2026-11-02T12:00:00Z"
)
MOVED = ServingRecord(current=ENTRY, alias_epoch=4, alias_note=alias_moved("3", "7"))
# The sentence that the mirror writes into the record.
GONE = "version 7, which serves, is no longer in the registry: it has no alias production"
DELETED = ServingRecord(current=ENTRY, alias_epoch=4, alias_note=GONE)
LATE = ServingRecord(current=ENTRY, alias_epoch=3)
FINE = ServingRecord(current=ENTRY, alias_epoch=4)


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        (MOVED, "points at version 3"),
        (DELETED, "no longer in the registry"),
        (LATE, "does not follow epoch 4"),
        (FINE, None),
    ],
)
def test_status_reports_how_the_alias_differs_from_the_record(
    tmp_path: Path, record: ServingRecord, shown: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    state = State.at(tmp_path)
    FileRecordStore(state.serving_record).compare_and_set(record, b"")
    local, overview = report(state), Overview("shop", "cards", record, ())
    assert local["alias"] == as_mapping(overview)["alias"] == record.alias_error
    show(overview)
    for text in ("\n".join(status_details(local)), capsys.readouterr().out):
        assert ("alias: " in text) == bool(shown)
        assert (shown or "") in text


@pytest.mark.parametrize("unsigned", [True, False])
def test_status_shows_that_what_serves_is_unsigned(
    tmp_path: Path, unsigned: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    record = ServingRecord(current=replace(ENTRY, act="promote", unsigned=unsigned), alias_epoch=4)
    state = State.at(tmp_path)
    FileRecordStore(state.serving_record).compare_and_set(record, b"")
    local, overview = report(state), Overview("shop", "cards", record, ())
    expected = "version 7 is unsigned, from before" if unsigned else None
    assert local["unsigned"] == as_mapping(overview)["unsigned"] == expected
    show(overview)
    for text in ("\n".join(status_details(local)), capsys.readouterr().out):
        assert (f"signature: {expected}" in text) == unsigned


def test_status_before_the_first_promotion_says_nothing_of_an_alias(tmp_path: Path) -> None:
    assert report(State.at(tmp_path))["alias"] is None
