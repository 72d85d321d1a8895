"""`fraudops audit` on a real PostgreSQL and a real spool: verify and export."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet
import pytest

from fraudops.audit.dead_letters import RejectedRecord
from fraudops.audit.records import encode, new_label
from fraudops.ids import uuid7
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import list_segments
from tests.support.audit_records import fill, prediction, refusals
from tests.support.audit_site import AuditSite

CARD = "4111111111111111"


def test_answers_in_table_spool_and_dead_letters_are_each_counted_in_their_place(
    audit: AuditSite,
) -> None:
    table = audit.ship(*(prediction() for _ in range(5)))
    spool = fill(
        audit.state.spool,
        [
            *(prediction() for _ in range(3)),
            new_label(1, datetime.now(UTC), "analyst", transaction_id="t"),
            refusals(),
        ],
    )[:3]
    poison = prediction()
    audit.dead_letters.put(
        [
            RejectedRecord(encode(poison), "why"),
            RejectedRecord(b"torn", "damaged or unfinished: x from byte 3"),
        ]
    )
    code, report = audit.verify([*table, *spool, poison.id])
    assert code == 0
    assert report["log"] == {
        "lines": 9,
        "repeated": 0,
        "in_table": 5,
        "in_spool": 3,
        "set_aside": 1,
        "expired": 0,
        "lost": 0,
    }
    counts = {
        name: report[name]
        for name in (
            "rows",
            "duplicated",
            "in_spool",
            "labels_in_spool",
            "set_aside",
            "unreadable",
            "agrees",
        )
    }
    assert counts == {
        "rows": 5,
        "duplicated": 0,
        "in_spool": 3,
        "labels_in_spool": 1,
        "set_aside": 1,
        "unreadable": 1,
        "agrees": True,
    }


def test_a_row_that_is_shipped_but_still_in_the_spool_counts_once(audit: AuditSite) -> None:
    records = [prediction() for _ in range(4)]
    fill(audit.state.spool, records)
    audit.dead_letters.put([RejectedRecord(encode(records[0]), "why")])
    code, report = audit.verify(audit.ship(*records))
    assert (code, report["in_spool"], report["set_aside"], report["log"]["in_table"]) == (
        0,
        0,
        0,
        4,
    )


def test_a_lost_answer_is_refused_and_counted(audit: AuditSite) -> None:
    table = audit.ship(prediction(), prediction())
    code, report = audit.verify([*table, uuid7(), uuid7()])
    assert (code, report["log"]["lost"], report["agrees"]) == (65, 2, False)
    result = audit("verify", "--answers", "-", stdin=f"{table[0]}\n{uuid7()}\n")
    assert "1 of 2 answers are lost" in result.stderr


def test_an_answer_of_a_day_that_retention_has_dropped_is_not_called_lost(audit: AuditSite) -> None:
    old = prediction(datetime.now(UTC) - timedelta(days=31))
    assert audit.verify([old.id])[1]["log"]["lost"] == 1
    code, report = audit.verify([old.id], FRAUDOPS_RETENTION__DAYS="30")
    assert (code, report["log"]["expired"], report["log"]["lost"]) == (0, 1, 0)


@pytest.mark.parametrize("shift", [timedelta(milliseconds=1), timedelta(days=1)])
def test_an_id_that_is_in_the_table_twice_is_refused_wherever_the_second_row_is(
    audit: AuditSite, shift: timedelta
) -> None:
    [identifier] = audit.ship(prediction())
    with psycopg.connect(audit.url) as connection:
        names = [
            row[0]
            for row in connection.execute(
                "SELECT attname FROM pg_attribute"
                " WHERE attrelid = 'predictions'::regclass AND attnum > 0"
            )
        ]
        columns = ", ".join(f'"{name}"' for name in names)
        again = ", ".join(
            '"timestamp" + %s' if name == "timestamp" else f'"{name}"' for name in names
        )
        connection.execute(
            f"INSERT INTO predictions ({columns}) SELECT {again} FROM predictions".encode(), [shift]
        )
    code, report = audit.verify([identifier])
    assert (code, report["duplicated"], report["log"]["lost"]) == (65, 1, 0)
    result = audit(
        "verify",
        "--until",
        (datetime.now(UTC) + timedelta(days=2)).isoformat(),
        "--since",
        (datetime.now(UTC) - timedelta(days=1)).isoformat(),
    )
    assert (result.returncode, "1 ids are in the table twice" in result.stderr) == (65, True)


def test_without_an_answer_log_the_table_and_the_spool_are_compared(
    audit: AuditSite,
) -> None:
    audit.ship(*(prediction() for _ in range(3)))
    fill(audit.state.spool, [prediction()])
    result = audit("verify", "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["rows"], report["in_spool"], report["log"]) == (0, 3, 1, None)
    assert json.loads(audit("verify", "--json", "--until", "2026-01-01").stdout)["rows"] == 0


def test_an_answer_log_may_hold_whole_answers_of_the_service(audit: AuditSite) -> None:
    ids = audit.ship(*(prediction() for _ in range(4)))
    batch = {
        "predictions": [
            {"prediction_id": identifier, "fraud_probability": 0.5} for identifier in ids[1:3]
        ]
    }
    lines = [
        json.dumps({"prediction_id": ids[0], "prediction": 0}),
        json.dumps(batch),
        "",
        ids[3],
        ids[3],
    ]
    code, report = audit.verify(lines)
    assert (code, report["log"]["lines"], report["log"]["repeated"], report["log"]["in_table"]) == (
        0,
        5,
        1,
        4,
    )


@pytest.mark.parametrize(
    "line",
    [
        CARD,
        '{"prediction": 1}',
        '{"prediction_id": "4111111111111111"}',
        "{",
        "\xff",
        "00000000-0000-4000-8000-000000000000",
    ],
)
def test_a_bad_answer_log_is_refused_by_line_and_never_quoted(audit: AuditSite, line: str) -> None:
    result = audit("verify", "--answers", "-", stdin=f"{uuid7()}\n{line}\n")
    assert result.returncode == 64
    assert "line 2 of the answers" in result.stderr
    assert CARD not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("verify", "--answers", "/dev/null/x"), "Not a directory"),
        (("verify", "--answers", os.devnull), "no answer in the file"),
        (("verify", "--since", "yesterday"), "ISO time"),
        (
            ("verify", "--since", "2026-01-02", "--until", "2026-01-01"),
            "--since must be before --until",
        ),
        (("export", "--out", "/dev/null/x.parquet"), "is no folder"),
        (("export", "--out", os.devnull), "exists already"),
        (("export", "--out", "x.csv"), "use a name in .parquet"),
        (("export", "--out", "x.parquet.gz"), "use a name in .parquet"),
        (("export", "--out", "x"), "use a name in .parquet"),
        (("replay", "/dev/null/x"), "does not exist"),
        (("forgive",), "No such command"),
    ],
)
def test_wrong_usage_is_refused_with_its_reason(
    audit: AuditSite, arguments: tuple[str, ...], complaint: str
) -> None:
    result = (
        audit._call(*arguments, DATABASE_URL=audit.url)
        if arguments[0] == "forgive"
        else audit(*arguments)
    )
    assert result.returncode == 64
    assert complaint in " ".join(result.stderr.split())


def test_on_the_cluster_the_job_gets_the_subcommand_and_its_options(
    audit: AuditSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("jobs.on_cluster.run_as_job", lambda *arguments: calls.append(arguments))
    assert (
        audit("verify", "--on-cluster", "--release", "shop", "--since", "2026-01-01").returncode
        == 0
    )
    assert audit("export", "--out", "/export/x.parquet", "--on-cluster").returncode == 0
    assert [
        (release, spec.template, spec.module, spec.arguments, spec.shards)
        for release, _namespace, spec in calls
    ] == [
        ("shop", "promote", "jobs.audit", ["verify", "--since", "2026-01-01"], None),
        (None, "retention", "jobs.audit", ["export", "--out", "/export/x.parquet"], None),
    ]


def test_without_postgresql_it_says_so_and_can_be_tried_again(audit: AuditSite) -> None:
    result = audit("verify", DATABASE_URL="postgresql://u:p@127.0.0.1:1/d")
    assert (result.returncode, "127.0.0.1:1/d does not answer" in result.stderr) == (75, True)


def test_an_export_holds_exactly_the_window_in_order(audit: AuditSite, tmp_path: Path) -> None:
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=3)
    calls = audit.ship(*(prediction(noon + timedelta(hours=6 * number)) for number in range(12)))
    file = tmp_path / "window.parquet"
    window = (
        "--since",
        (noon + timedelta(hours=6)).isoformat(),
        "--until",
        (noon + timedelta(hours=60)).isoformat(),
    )
    result = audit("export", "--out", file, "--json", *window)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["rows"] == 9
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert [row["id"] for row in rows] == calls[1:10]
    assert json.loads(rows[0]["features"]) == {"V1": -1.25, "Amount": 12.5}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["window.parquet"]
    assert audit("export", "--out", file).returncode == 64
    assert (
        "0 predictions"
        in audit("export", "--out", tmp_path / "none.parquet", "--until", "2020-01-01").stdout
    )


def test_records_of_a_living_writer_are_counted_without_closing_its_segment(
    audit: AuditSite,
) -> None:
    writer = SpoolWriter(audit.state.spool, "worker-1", SpoolOptions())
    first, second = prediction(), prediction()
    writer.append(encode(first))
    assert audit.verify([first.id])[1]["log"]["in_spool"] == 1
    writer.append(encode(second))
    writer.close()
    assert len(list_segments(audit.state.spool)) == 1
    assert audit.verify([first.id, second.id])[1]["log"]["in_spool"] == 2


def test_the_output_holds_no_card_data(audit: AuditSite) -> None:
    records = [prediction(entity_key=CARD), prediction(entity_key=f"{CARD}\x00")]
    fill(audit.state.spool, records)
    audit.ship_the_spool()
    results = [
        audit("verify"),
        audit("verify", "--json"),
        audit("replay", "--dry-run"),
        audit("replay"),
    ]
    assert all(result.returncode == 0 for result in results)
    assert not any(CARD in result.stdout + result.stderr for result in results)
