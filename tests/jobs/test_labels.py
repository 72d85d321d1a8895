"""`fraudops labels import` on a real PostgreSQL: counts, formats, bad rows, and killed imports."""

import asyncio
import contextlib
import csv
import gzip
import io
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pyarrow as pa
import pyarrow.parquet
import pytest

from fraudops.audit import connection as audit_connection
from fraudops.audit import label_files, label_import
from fraudops.audit.records import Record, encode, new_label
from jobs.labels import command
from services.shipper.sink import Sink
from tests.support.audit_records import prediction
from tests.support.commands import Caller, CommandResult, bare_environment

NOW = datetime.now(UTC).replace(microsecond=0)
YESTERDAY, CARD = NOW - timedelta(days=1), "4111111111111111"
COLUMNS = ("prediction_id", "transaction_id", "label", "labelled_at", "source")
Cells = Mapping[str, Any]


class LabelSite:
    """An audit database, a folder of files, and the command `fraudops labels`."""

    def __init__(self, url: str, folder: Path, call: Caller) -> None:
        self.url, self.folder, self._call = url, folder, call

    def __call__(self, *arguments: str | Path, **environment: str) -> CommandResult:
        return self._call("import", *arguments, **({"DATABASE_URL": self.url} | environment))

    def report(self, *arguments: str | Path) -> dict[str, Any]:
        result = self(*arguments, "--json")
        assert result.returncode == 0, result.stderr
        return dict(json.loads(result.stdout))

    def ship(self, *records: Record) -> None:
        async def ship() -> None:
            sink = Sink(self.url)
            assert (await sink.ship([encode(record) for record in records])).new == len(records)
            await sink.close()

        asyncio.run(ship())

    def csv(self, rows: Sequence[Cells], name: str = "labels.csv") -> Path:
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
        path = self.folder / name
        path.write_text(text.getvalue())
        return path

    def stored(self) -> list[tuple[Any, ...]]:
        """Return the stored labels, without what differs between imports."""
        return self.select(
            "SELECT id::text, prediction_id::text, transaction_id, label, labelled_at, source"
            " FROM labels ORDER BY id"
        )

    def select(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url) as connection:
            return connection.execute(query.encode()).fetchall()

    def clear(self, only: str = "true") -> None:
        """Forget all imports, and the labels of this condition."""
        with psycopg.connect(self.url) as connection:
            connection.execute(f"DELETE FROM labels WHERE {only}".encode())
            connection.execute("DELETE FROM label_imports")


@pytest.fixture
def site(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> LabelSite:
    monkeypatch.setattr(label_files, "BATCH_ROWS", 4)
    return LabelSite(database, tmp_path, Caller("labels", command, monkeypatch, capsys))


def row(label: Any = 1, moment: Any = YESTERDAY, **names: Any) -> dict[str, Any]:
    text = moment.isoformat() if isinstance(moment, datetime) else moment
    return {"label": label, "labelled_at": text, "source": "chargeback", **names}


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


def counts(report: Mapping[str, Any]) -> dict[str, int]:
    return {name: report[name] for name in MIXED}


def lines(path: Path) -> list[str]:
    """Return the lines of a list of rows without the import's name."""
    return [line.partition(",")[2] for line in path.read_text().splitlines()]


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
        **dict.fromkeys(MIXED, 0),
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


def test_a_file_without_rows_is_an_import_of_nothing(site: LabelSite) -> None:
    assert set(counts(site.report(site.csv([]))).values()) == {0}
    empty = pa.table({name: pa.array([], pa.string()) for name in COLUMNS})
    path = site.folder / "labels.parquet"
    pyarrow.parquet.write_table(empty, path)
    assert set(counts(site.report(path)).values()) == {0}
    assert site.select("SELECT count(*) FROM label_imports WHERE finished_at IS NOT NULL") == [(2,)]


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


def other(url: str, file: Path) -> int:
    """Import the file in a process of its own, and return its exit code."""
    arguments = [sys.executable, "-m", "jobs.labels", "import", str(file)]
    environment = bare_environment() | {"DATABASE_URL": url}
    return subprocess.run(arguments, env=environment, check=False, timeout=60).returncode


def parquet(site: LabelSite, rows: Sequence[Cells], **types: pa.DataType) -> Path:
    columns = {name: [one.get(name) or None for one in rows] for name in COLUMNS}
    columns["label"] = [one["label"] for one in rows]
    columns["labelled_at"] = [datetime.fromisoformat(one["labelled_at"]) for one in rows]
    arrays = {name: pa.array(values) for name, values in columns.items()}
    arrays |= {name: arrays[name].cast(kind) for name, kind in types.items()}
    path = site.folder / "labels.parquet"
    pyarrow.parquet.write_table(pa.table(arrays), path)
    return path


@pytest.mark.parametrize(
    ("label", "moment"),
    [
        (pa.int64(), pa.timestamp("us", "UTC")),
        (pa.float32(), pa.timestamp("ns", "Europe/Berlin")),
        (pa.bool_(), pa.timestamp("s", "UTC")),
    ],
    ids=str,
)
def test_parquet_and_csv_give_the_same_rows(
    site: LabelSite, label: pa.DataType, moment: pa.DataType
) -> None:
    rows = [
        *(row(number % 2, transaction_id=f"t-{number}") for number in range(5)),
        row(1, prediction_id=prediction().id),
    ]
    expected = counts(site.report(site.csv(rows)))
    stored = site.stored()
    site.clear()
    zipped = site.folder / "labels.csv.gz"
    zipped.write_bytes(gzip.compress((site.folder / "labels.csv").read_bytes()))
    assert counts(site.report(zipped)) == expected
    assert site.stored() == stored
    site.clear()
    assert counts(site.report(parquet(site, rows, label=label, labelled_at=moment))) == expected
    assert site.stored() == stored


def test_columns_of_other_names_and_one_source_for_all(site: LabelSite) -> None:
    path = site.folder / "export.csv"
    path.write_text(
        "\ufeff txn ,is_fraud,note,when,prediction_id\n"
        f't-1,1,"two\nlines",{YESTERDAY.isoformat()},{CARD}\n\n'
        f"t-2,0,,{YESTERDAY:%Y-%m-%d %H:%M:%S}+00,{CARD}\n"
    )
    names = {"transaction_id": "txn", "label": "is_fraud", "labelled_at": "when"}
    options = [f"--column={name}={column}" for name, column in names.items()]
    report = site.report(path, *options, "--column", "prediction_id=", "--source", "warehouse")
    assert (report["inserted"], {label[5] for label in site.stored()}) == (2, {"warehouse"})


def test_a_transaction_is_searched_from_a_day_on(site: LabelSite) -> None:
    site.ship(prediction(NOW - timedelta(days=30), transaction_id="t-1"))
    file = site.csv([row(transaction_id="t-1")])
    since = (NOW - timedelta(days=20)).isoformat()
    assert site.report(file, "--since", since)["unmatched"] == 1
    assert site.report(file)["unmatched"] == 0


FAULTS = {
    "label must be 0 or 1": row(CARD, transaction_id="t"),
    "with a time zone": row(1, f"{YESTERDAY:%Y-%m-%dT%H:%M:%S}", transaction_id="t"),
    "labelled_at lies in the future": row(1, NOW + timedelta(hours=1), transaction_id="t"),
    "labelled_at lies before 1970": row(1, "1969-12-31T23:59:59Z", transaction_id="t"),
    "must be an ISO time": row(1, "9999-12-31T23:59:59-12:00", transaction_id="t"),
    "not both": row(transaction_id="t", prediction_id=str(uuid4())),
    "either prediction_id or transaction_id": row(),
    "prediction_id must be a UUID": row(prediction_id=CARD),
    "transaction_id must be 1 to 64": row(transaction_id=f"={CARD}"),
    "source must be 1 to 64": row(transaction_id="t") | {"source": f"{CARD} {CARD}"},
}


@pytest.mark.parametrize("reason", FAULTS)
def test_a_bad_row_is_named_by_its_line_and_never_quoted(site: LabelSite, reason: str) -> None:
    """The rows before it are imported."""
    good = [row(transaction_id=f"{CARD}-{number}") for number in range(6)]
    file = site.csv([*good, FAULTS[reason], *good])
    refused = site(file)
    assert (refused.returncode, "labels.csv: line 8: " in refused.stderr) == (64, True)
    assert reason in refused.stderr
    assert len(site.stored()) == 6
    bad, report = site.folder / "bad.csv", site.folder / "report.csv"
    done = site(file, "--bad-rows", bad, "--report", report)
    assert done.returncode == 0, done.stderr
    assert lines(bad)[1].startswith("7,8,")
    assert lines(report)[1:3] == ["7,8,refused", "8,9,repeated unmatched"]
    shown = refused.stderr + done.stdout + done.stderr + bad.read_text() + report.read_text()
    assert CARD not in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (f"{CARD},1\n".encode(), "there is no column 'label'"),
        (b"label,labelled_at,source\n", "no column with the prediction_id or the transaction_id"),
        (b"transaction_id,label,labelled_at\n", "or give --source NAME"),
        (b"transaction_id,label,label,labelled_at,source\n", "two columns have the name 'label'"),
        (b"", "not a CSV with a header"),
        ("transaction_id,label".encode("utf-16"), "not a CSV with a header"),
        (gzip.compress(b"x" * 100_000)[:-20], "the gzip file is damaged"),
        (b"PAR1" + CARD.encode(), "the Parquet file is damaged"),
        (b"transaction_id,label,labelled_at,source\n" + b"4" * (2 << 20), "line 2 has more than"),
        (b'transaction_id,label,labelled_at,source\n"' + b"4\n" * 100_000, "cannot be read as CSV"),
        (f"transaction_id,label,labelled_at,source\n{CARD}\n".encode(), "line 2: 1 values where"),
    ],
)
def test_a_file_that_is_none_is_refused_with_its_reason(
    site: LabelSite, content: bytes, reason: str
) -> None:
    path = site.folder / "labels.csv"
    path.write_bytes(content)
    result = site(path)
    assert (result.returncode, reason in result.stderr) == (64, True), result.stderr
    assert CARD not in result.stderr
    assert "4444" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("/dev/null/x",), "cannot be read: Not a directory"),
        (("x.csv", "--column", "amount=x"), "NAME is one of prediction_id"),
        (("x.csv", "--column", "label"), "write it as NAME=COLUMN"),
        (("x.csv", "--source", "a b"), "--source must be"),
        (("x.csv", "--since", "yesterday"), "ISO time"),
        (("x.csv", "--report", "x.csv"), "must be different files"),
        ((), "Missing argument 'FILE'"),
    ],
)
def test_wrong_usage_is_refused_with_its_reason(
    site: LabelSite, arguments: tuple[str, ...], reason: str
) -> None:
    result = site(*arguments)
    assert result.returncode == 64
    assert reason in " ".join(result.stderr.split())


def test_a_file_that_changes_while_it_is_read_is_refused(
    site: LabelSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = site.csv([row(transaction_id=f"t-{number}") for number in range(6)])
    rows = label_files.LabelFile.rows

    def changed(labels: label_files.LabelFile) -> Any:
        for number, one in enumerate(rows(labels)):
            if number == 5:
                file.write_text("another")
            yield one

    monkeypatch.setattr(label_files.LabelFile, "rows", changed)
    result = site(file)
    assert (result.returncode, "the file changed while it was read" in result.stderr) == (64, True)
    assert len(site.stored()) == 4


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
