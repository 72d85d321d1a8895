"""`fraudops labels import` on a real PostgreSQL: what it counts, and imports that are killed."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from fraudops.audit import connection as audit_connection
from fraudops.audit import label_files, label_import
from fraudops.audit.label_import import LabelImport
from fraudops.audit.records import new_label
from jobs import labels
from jobs.labels import command
from tests.support.audit_records import prediction
from tests.support.commands import Caller, bare_environment
from tests.support.label_site import COUNTS, NOW, YESTERDAY, LabelSite, counts, lines, row


@pytest.fixture
def site(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> LabelSite:
    monkeypatch.setattr(label_files, "BATCH_ROWS", 4)
    return LabelSite(database, tmp_path, Caller("labels", command, monkeypatch, capsys))


def mixed(site: LabelSite) -> list[dict[str, Any]]:
    """Store three answers and a label, and return rows of every kind, more than one batch."""
    answers = [
        prediction(NOW - timedelta(days=2), transaction_id="t-0"),
        prediction(NOW - timedelta(days=30), transaction_id="t-1"),
        prediction(NOW - timedelta(hours=1)),
    ]
    site.ship(*answers, new_label(0, YESTERDAY, "analyst", transaction_id="t-1"))
    return [
        row(transaction_id="t-0"),
        # It contradicts the stored label.
        row(transaction_id="t-1"),
        row(prediction_id=answers[2].id.upper()),
        row(transaction_id="unknown"),
        row(prediction_id=str(uuid4())),
        # The first row again, in another batch.
        row("1.0", transaction_id="t-0"),
        row("TRUE", prediction_id=answers[0].id),
        # It contradicts the first row, which names the transaction in another way.
        row("false", prediction_id=answers[0].id, source="analyst"),
        row(2, transaction_id="t-0"),
        row(0, transaction_id="t-9"),
        # It contradicts the row before it in the same batch.
        row(1, transaction_id="t-9"),
    ]


MIXED = {
    "rows": 11,
    "inserted": 9,
    "repeated": 1,
    "refused": 1,
    "matched": 6,
    "unmatched": 4,
    "contradictory": 3,
}


REPORT = [
    "row,line,result",
    "2,3,contradictory",
    "4,5,unmatched",
    "5,6,unmatched",
    "6,7,repeated",
    "8,9,contradictory",
    "9,10,refused",
    "10,11,unmatched",
    "11,12,unmatched contradictory",
]
BAD_ROWS = ["row,line,reason", "9,10,label must be 0 or 1"]


def test_each_row_is_counted_in_its_place(site: LabelSite) -> None:
    file = site.csv(mixed(site))
    options = (file, "--bad-rows", site.folder / "bad.csv", "--report", site.folder / "report.csv")
    report = site.report(*options)
    assert counts(report) == MIXED
    assert lines(site.folder / "report.csv") == REPORT
    assert lines(site.folder / "bad.csv") == BAD_ROWS
    [imported] = site.select(
        "SELECT rows, inserted, repeated, contradictory, unmatched, refused, next_batch,"
        " finished_at IS NOT NULL FROM label_imports"
    )
    assert imported == (11, 9, 1, 3, 4, 1, 3, True)
    received = site.select(
        "SELECT DISTINCT client, received_at = started_at FROM labels, label_imports"
        " WHERE client IS NOT NULL"
    )
    assert received == [(report["client"], True)]
    text = site(*options).stdout
    assert "unmatched" in text


def test_a_second_import_changes_nothing(site: LabelSite) -> None:
    file = site.csv([row(transaction_id=f"t-{number}") for number in range(6)])
    first = site.report(file)
    before = site.select("SELECT * FROM labels ORDER BY id")
    again = site(file, "--json")
    assert json.loads(again.stdout) == first
    assert "imported with these options already" in again.stderr
    # A copy with one row more is another file.
    more = site.csv([row(transaction_id=f"t-{number}") for number in range(7)], "more.csv")
    assert counts(site.report(more)) | {"unmatched": 0} == {
        **dict.fromkeys(COUNTS, 0),
        "rows": 7,
        "inserted": 1,
        "repeated": 6,
    }
    assert [label for label in site.select("SELECT * FROM labels") if label in before] != []
    assert len(site.stored()) == 7


def test_labels_of_two_answers_of_one_transaction_contradict(site: LabelSite) -> None:
    moments = (NOW - timedelta(days=4), NOW - timedelta(days=3), NOW - timedelta(hours=1))
    first, second, third = (prediction(moment, transaction_id="t-0") for moment in moments)
    others = [prediction(moments[0]), prediction(moments[0])]
    site.ship(
        first, second, third, *others, new_label(0, YESTERDAY, "rule", prediction_id=first.id)
    )
    rows = [
        row(1, prediction_id=second.id),
        row(0, prediction_id=first.id),
        # The transaction came again days later: that is another decision.
        row(0, prediction_id=third.id),
        # They have no transaction_id.
        row(0, prediction_id=others[0].id),
        row(1, prediction_id=others[1].id),
    ]
    site.report(site.csv(rows), "--report", site.folder / "report.csv")
    assert lines(site.folder / "report.csv")[1:] == ["1,2,contradictory", "2,3,contradictory"]


def test_a_label_of_the_file_is_the_same_row_as_one_of_a_client(site: LabelSite) -> None:
    answer = prediction()
    site.ship(
        new_label(1, YESTERDAY, "chargeback", transaction_id="t-1"),
        new_label(0, YESTERDAY, "chargeback", prediction_id=answer.id),
    )
    there = YESTERDAY.astimezone().isoformat()
    file = site.csv(
        [row(1, there, transaction_id="t-1"), row("0.0", there, prediction_id=answer.id.upper())]
    )
    assert counts(site.report(file))["repeated"] == 2


class Killed(BaseException):
    """As a kill, no code of the program handles it."""


class Mortal:
    """A connection that dies at a certain statement which changes or locks something."""

    def __init__(self, connection: Any, statements: int) -> None:
        self._connection, self._left = connection, statements

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        return self._counted(found) if name in ("fetch", "fetchval", "execute") else found

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(statement: str, *arguments: Any) -> Any:
            self._left -= any(word in statement for word in ("INSERT", "UPDATE", "SET LOCAL"))
            if self._left == 0:
                raise Killed
            return await method(statement, *arguments)

        return call


def test_an_import_killed_anywhere_is_resumed_with_the_same_report(
    site: LabelSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, report, bad = site.csv(mixed(site)), site.folder / "report.csv", site.folder / "bad.csv"
    options = (file, "--report", report, "--bad-rows", bad)
    real = audit_connection.open_connection
    statements, stored = 0, list[Any]()

    @asynccontextmanager
    async def mortal(*arguments: Any) -> AsyncIterator[Mortal]:
        async with real(*arguments) as connection:
            yield Mortal(connection, statements)

    done = None
    while done is None:
        statements += 1
        with monkeypatch.context() as patch:
            patch.setattr(audit_connection, "open_connection", mortal)
            with contextlib.suppress(Killed):
                done = site(*options)
        assert done is None or done.returncode == 0, done.stderr
        assert counts(site.report(*options)) == MIXED, f"killed at statement {statements}"
        assert (lines(report), lines(bad)) == (REPORT, BAD_ROWS), f"killed at {statements}"
        stored = stored or site.stored()
        assert site.stored() == stored
        site.clear("client IS NOT NULL")
        report.unlink()
        bad.unlink()
    # Three batches, of four statements each, a first and a last one; then no kill.
    assert statements == 3 * 4 + 2 + 1


def test_a_list_of_rows_that_a_kill_tore_is_mended(site: LabelSite) -> None:
    report = site.folder / "report.csv"
    file = site.csv([*(row(transaction_id=f"t-{number}") for number in range(6)), row(7)])
    assert site(file, "--report", report).returncode == 64
    whole = report.read_text()
    report.write_text(whole + whole.splitlines()[-1].replace(",6,7,", ",7,8,") + "\nimport:")
    assert site.report(file, "--report", report, "--bad-rows", site.folder / "bad.csv")
    assert lines(report)[1:] == [
        *(f"{number},{number + 1},unmatched" for number in range(1, 7)),
        "7,8,refused",
    ]


def test_a_list_of_another_import_is_not_written_to(site: LabelSite) -> None:
    report = site.folder / "report.csv"
    site.report(site.csv([row(transaction_id="t-1")]), "--report", report)
    before = report.read_text()
    other = site.csv([row(transaction_id="t-2")], "other.csv")
    assert "is not of this import" in site(other, "--report", report).stderr
    assert site(other, "--bad-rows", report).returncode == 64
    assert report.read_text() == before


def test_two_imports_of_one_file_at_once_count_each_row_once(
    site: LabelSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is let in between the look-ups and the lock of the first one."""
    file = site.csv([row(transaction_id=f"t-{number}") for number in range(6)])
    find, entered = label_import.find_answers, []

    async def let_in(*arguments: Any) -> Any:
        if not entered:
            entered.append(True)
            process = await asyncio.to_thread(lambda: other(site.url, file))
            assert process == 0
        return await find(*arguments)

    monkeypatch.setattr(label_import, "find_answers", let_in)
    first = site(file)
    assert (first.returncode, "another process imports the same file" in first.stderr) == (75, True)
    assert counts(site.report(file))["inserted"] == len(site.stored()) == 6


@pytest.mark.parametrize("locked", [True, False], ids=["before its lock", "within its block"])
def test_a_second_import_with_the_same_list_takes_no_line_of_the_first(
    site: LabelSite, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    """The other import runs before this one locks its list, or while this one holds the lock."""
    rows = [row(transaction_id=f"t-{number}") for number in range(6)]
    file, report = site.csv([*rows, row(7), *rows]), site.folder / "report.csv"
    codes = list[int]()

    def let_in() -> None:
        if not codes:
            codes.append(other(site.url, file, "--report", str(report)))

    if locked:
        real_lists = labels.row_lists
        monkeypatch.setattr(labels, "row_lists", lambda *paths: let_in() or real_lists(*paths))
    else:
        real_store = LabelImport.store

        async def store(*arguments: Any) -> Any:
            stored = await real_store(*arguments)
            await asyncio.to_thread(let_in)
            return stored

        monkeypatch.setattr(LabelImport, "store", store)
    first = site(file, "--report", report, "--bad-rows", site.folder / "bad.csv")
    assert (codes, first.returncode) == ([64 if locked else 75], 0), first.stderr
    assert [line.split(",")[0] for line in lines(report)[1:]] == [
        str(number) for number in range(1, 14)
    ]
    assert len(site.stored()) == 6


def other(url: str, file: Path, *options: str) -> int:
    """Import the file in a process of its own, and return its exit code."""
    arguments = [sys.executable, "-m", "jobs.labels", "import", str(file), *options]
    environment = bare_environment() | {"DATABASE_URL": url}
    return subprocess.run(arguments, env=environment, check=False, timeout=60).returncode


def test_a_transaction_is_searched_from_a_day_on(site: LabelSite) -> None:
    site.ship(prediction(NOW - timedelta(days=30), transaction_id="t-1"))
    file = site.csv([row(transaction_id="t-1")])
    since = (NOW - timedelta(days=20)).isoformat()
    assert site.report(file, "--since", since)["unmatched"] == 1
    assert site.report(file)["unmatched"] == 0


def test_without_postgresql_it_can_be_tried_again(site: LabelSite) -> None:
    file = site.csv([row(transaction_id="t")])
    result = site(file, DATABASE_URL="postgresql://u:p@127.0.0.1:1/d")
    assert (result.returncode, "127.0.0.1:1/d does not answer" in result.stderr) == (75, True)


def test_on_the_cluster_the_job_is_made_from_the_template_for_labels(
    site: LabelSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("jobs.on_cluster.run_as_job", lambda *arguments: calls.append(arguments))
    assert site("/data/labels.csv", "--on-cluster", "--source", "analyst").returncode == 0
    [(_release, _namespace, spec)] = calls
    assert (spec.template, spec.module, spec.arguments) == (
        "labels",
        "jobs.labels",
        ["import", "/data/labels.csv", "--source", "analyst"],
    )
