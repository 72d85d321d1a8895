"""`fraudops labels import`: the formats of its files, bad rows, and wrong usage."""

import gzip
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from fraudops.audit import label_files
from fraudops.audit.records import new_label
from jobs.labels import command
from services.inference.reading.labels import LabelReader
from tests.support.audit_records import prediction
from tests.support.commands import Caller
from tests.support.label_site import (
    CARD,
    COLUMNS,
    NOW,
    YESTERDAY,
    Cells,
    LabelSite,
    counts,
    lines,
    row,
)


@pytest.fixture
def site(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> LabelSite:
    monkeypatch.setattr(label_files, "BATCH_ROWS", 4)
    return LabelSite(database, tmp_path, Caller("labels", command, monkeypatch, capsys))


def test_a_file_without_rows_is_an_import_of_nothing(site: LabelSite) -> None:
    assert set(counts(site.report(site.csv([]))).values()) == {0}
    empty = pa.table({name: pa.array([], pa.string()) for name in COLUMNS})
    path = site.folder / "labels.parquet"
    pyarrow.parquet.write_table(empty, path)
    assert set(counts(site.report(path)).values()) == {0}
    assert site.select("SELECT count(*) FROM label_imports WHERE finished_at IS NOT NULL") == [(2,)]


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
        (
            f'transaction_id,label,labelled_at,source\n"{CARD}"4,1,,\n'.encode(),
            "line 2: cannot be read as CSV",
        ),
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


NOTED = "note,transaction_id,label,labelled_at,source,end"


def noted(number: int, note: str = "", end: str = "") -> str:
    return f"{note},t-{number},1,{YESTERDAY.isoformat()},chargeback,{end}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({2: noted(2, end='"cut')}, "lines 4 to 21: cannot be read as CSV"),
        ({2: noted(2, end='"cut'), 9: noted(9, end='"ok"')}, "lines 4 to 11: cannot be read"),
        ({2: noted(2, end='"cut'), 9: noted(9, end='5"')}, "line 4: a quoted cell goes on to li"),
        ({2: noted(2, '"cut'), 3: noted(3, '5"')}, "line 4: a quoted cell goes on to line 5"),
    ],
)
def test_a_missing_quote_never_swallows_rows_in_silence(
    site: LabelSite, changes: dict[int, str], reason: str
) -> None:
    """The columns with the quotes are not imported."""
    path = site.folder / "labels.csv"
    lines = [NOTED, *(changes.get(number, noted(number)) for number in range(20))]
    path.write_text("\n".join(lines) + "\n")
    result = site(path)
    assert (result.returncode, reason in result.stderr) == (64, True), result.stderr
    assert len(site.stored()) == 2


def test_a_quoted_cell_may_hold_line_breaks_and_commas(site: LabelSite) -> None:
    path = site.folder / "labels.csv"
    text = '"a, b, c, d, e\nand, 1, so ""on""\n, , , , , ,"'
    path.write_text(f"{NOTED}\n{noted(0, text)}\n{noted(1, end=text)}\n{noted(2)}\n")
    assert counts(site.report(path))["inserted"] == 3


FAR = 9_000_000_000_000_000_00


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("labelled_at", [FAR], pa.timestamp("us", "UTC")),
        # In microseconds, 64 bits hold this number as a time of 2023.
        ("labelled_at", [18_446_744_073_709 + 1_700_000_000], pa.timestamp("s", "UTC")),
        ("labelled_at", [FAR], pa.timestamp("ms", "UTC")),
        ("transaction_id", [b"\xff\xfe"], pa.string()),
    ],
    ids=str,
)
def test_a_value_of_parquet_that_cannot_be_read_refuses_its_row_alone(
    site: LabelSite, column: str, values: list[Any], kind: pa.DataType
) -> None:
    good = parquet(site, [row(transaction_id=f"t-{number}") for number in range(5)])
    table = pyarrow.parquet.read_table(good)
    stored = pa.array(values, pa.binary() if kind == pa.string() else pa.int64())
    bad = table.slice(0, 1).set_column(
        table.schema.get_field_index(column), column, stored.view(kind)
    )
    fitting = table.set_column(
        table.schema.get_field_index(column), column, table[column].cast(kind)
    )
    path = site.folder / "bad.parquet"
    pyarrow.parquet.write_table(pa.concat_tables([fitting, bad, fitting.slice(0, 1)]), path)
    refused = site(path)
    reason = f"row 6: the value of {column} cannot be read"
    assert (refused.returncode, reason in refused.stderr) == (64, True), refused.stderr
    report = counts(site.report(path, "--bad-rows", site.folder / "bad.csv"))
    assert (report["inserted"], report["repeated"], report["refused"]) == (5, 1, 1)


@pytest.mark.parametrize(
    "digits", ["123456499", "1234565", "1234575", "123456789", "9999995", "000000500"]
)
def test_more_than_six_digits_of_a_second_are_the_same_label_everywhere(
    site: LabelSite, digits: str
) -> None:
    text = f"2026-01-01T00:00:00.{digits}"
    body = {"label": 1, "labelled_at": f"{text}Z", "source": "x", "transaction_id": "t-1"}
    sent = LabelReader().decode(msgspec.json.encode(body))
    site.ship(new_label(1, sent.labelled_at, "x", transaction_id="t-1"))
    cells = [
        row(1, each, transaction_id="t-1") | {"source": "x"}
        for each in (f"{text}Z", f"{text.replace('T', ' ')}+00", f"{text}-00:00")
    ]
    assert counts(site.report(site.csv(cells)))["repeated"] == 3
    whole, fine = datetime(2026, 1, 1, tzinfo=UTC), int(digits.ljust(9, "0"))
    table = pyarrow.parquet.read_table(parquet(site, cells[:1]))
    time = pa.array([int(whole.timestamp()) * 1_000_000_000 + fine])
    column = time.view(pa.timestamp("ns", "UTC"))
    path = site.folder / "fine.parquet"
    place = table.schema.get_field_index("labelled_at")
    pyarrow.parquet.write_table(table.set_column(place, "labelled_at", column), path)
    assert counts(site.report(path))["repeated"] == 1


def test_a_pipe_is_refused_with_its_reason(site: LabelSite) -> None:
    ends = os.pipe()
    os.write(ends[1], b"transaction_id,label,labelled_at,source\n")
    os.close(ends[1])
    result = site(f"/dev/fd/{ends[0]}")
    os.close(ends[0])
    assert (result.returncode, "give a file, and no pipe" in result.stderr) == (64, True)


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
