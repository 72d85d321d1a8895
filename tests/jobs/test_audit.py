"""`fraudops audit` on a real PostgreSQL and a real spool: verify, export and forget."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow.parquet
import pytest

from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.records import encode, new_label
from fraudops.feature_encryption import protection
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


def features(audit: AuditSite) -> dict[str, tuple[Any, Any]]:
    with psycopg.connect(audit.url) as connection:
        return {
            row[0]: row[1:]
            for row in connection.execute(
                "SELECT id::text, features, features_sealed FROM predictions"
            )
        }


def test_forgotten_features_leave_their_row_and_do_not_return(audit: AuditSite) -> None:
    seal = protection("sealed", [bytes(32)])
    assert seal
    plain, sealed, other = prediction(), prediction(), prediction()
    sealed = msgspec.structs.replace(sealed, features=seal(sealed.id, {"V1": 1.0}))
    audit.ship(plain, sealed, other)
    assert features(audit)[sealed.id][1]
    result = audit("forget", "--prediction", plain.id, "--prediction", sealed.id.upper(), "--json")
    assert (result.returncode, json.loads(result.stdout)) == (
        0,
        {"forgotten": 2, "labels": 0},
    )
    audit.ship(plain, sealed)
    assert features(audit) == {
        plain.id: (None, None),
        sealed.id: (None, None),
        other.id: (other.features, None),
    }
    assert audit("forget", "--prediction", plain.id).returncode == 0
    assert audit.verify([plain.id, sealed.id, other.id])[1]["log"]["in_table"] == 3


def test_if_one_prediction_cannot_be_forgotten_none_is(audit: AuditSite) -> None:
    [shipped] = audit.ship(prediction())
    [spooled] = fill(audit.state.spool, [prediction()])
    refused = prediction()
    audit.dead_letters.put([RejectedRecord(encode(refused), "why")])
    for identifier, code, reason in (
        (spooled, 75, "still in the spool"),
        (refused.id, 65, "is a dead letter in"),
        (uuid7(), 64, "has no prediction"),
        (CARD, 64, "UUIDv7"),
    ):
        result = audit("forget", "--prediction", shipped, "--prediction", identifier)
        assert (result.returncode, reason in result.stderr, CARD in result.stderr) == (
            code,
            True,
            False,
        )
    assert features(audit)[shipped][0]
    assert audit("forget").returncode == 64


def labels_of(audit: AuditSite) -> set[str]:
    with psycopg.connect(audit.url) as connection:
        return {row[0] for row in connection.execute("SELECT id::text FROM labels")}


def test_forgetting_by_transaction_and_entity_reaches_labels(audit: AuditSite) -> None:
    now = datetime.now(UTC)
    first = prediction(now - timedelta(days=3), transaction_id="t-1", entity_key="e-1")
    second = prediction(transaction_id="t-1", entity_key="e-2")
    third = prediction(transaction_id="t-2", entity_key="e-1")
    kept = prediction(transaction_id="t-3", entity_key="e-3")
    names = [
        *({"prediction_id": each.id} for each in (first, second, third, kept)),
        *({"transaction_id": each.transaction_id} for each in (first, third, kept)),
        {"transaction_id": "without an answer"},
    ]
    labels = [new_label(1, now, "analyst", **each) for each in names]
    everything = {label.id for label in labels}
    audit.ship(first, second, third, kept, *labels)

    def forgotten(*arguments: str) -> tuple[int, int, set[str], set[str]]:
        """Return the counts, and the ids of predictions and labels that were forgotten."""
        result = audit("forget", *arguments, "--json")
        assert result.returncode == 0, result.stderr
        counts = json.loads(result.stdout)
        without = {name for name, kinds in features(audit).items() if not any(kinds)}
        return counts["forgotten"], counts["labels"], without, everything - labels_of(audit)

    # A prediction alone: another label names its transaction, which has another prediction.
    gone = {labels[0].id}
    assert forgotten("--prediction", first.id) == (1, 1, {first.id}, gone)
    gone |= {labels[1].id, labels[4].id}
    assert forgotten("--transaction", "t-1") == (2, 2, {first.id, second.id}, gone)
    gone |= {labels[2].id, labels[5].id}
    cleared = {first.id, second.id, third.id}
    assert forgotten("--entity", "e-1") == (2, 2, cleared, gone)
    assert forgotten("--entity", "e-1", "--transaction", "t-1") == (3, 0, cleared, gone)
    gone.add(labels[7].id)
    assert forgotten("--transaction", "without an answer") == (0, 1, cleared, gone)
    assert forgotten("--entity", "nobody", "--transaction", "t-9") == (0, 0, cleared, gone)
    result = audit("forget", "--transaction", "t-3")
    assert "predictions are forgotten, and their rows stay; 2 labels are deleted" in result.stdout


# The message names the path of the spool, which may hold "t-1", as "pytest-105" does.
NAMED = "t:1"


@pytest.mark.parametrize(
    "record",
    [
        prediction(transaction_id=NAMED),
        prediction(entity_key="e-1"),
        new_label(1, datetime.now(UTC), "analyst", transaction_id=NAMED),
        # They belong to the entity or to the transaction by the answer in the table.
        new_label(1, datetime.now(UTC), "analyst", transaction_id="t-2"),
        "of the answer",
    ],
    ids=["transaction", "entity", "label", "label of the entity", "label of the answer"],
)
@pytest.mark.parametrize("place", ["spool", "newer", "aside"])
def test_nothing_is_forgotten_while_a_part_of_it_may_still_arrive(
    audit: AuditSite, record: Any, place: str
) -> None:
    answer = prediction(transaction_id="t-2", entity_key="e-1")
    known = prediction(transaction_id=NAMED)
    audit.ship(answer, known, new_label(1, datetime.now(UTC), "rule", transaction_id=NAMED))
    if record == "of the answer":
        record = new_label(1, datetime.now(UTC), "analyst", prediction_id=answer.id)
    forget = ("forget", "--transaction", NAMED, "--entity", "e-1")
    before = features(audit), labels_of(audit)
    if place == "spool":
        fill(audit.state.spool, [record, refusals()])
    else:
        DeadLetters(audit.state.spool, place).put([RejectedRecord(encode(record), "why")])
    result = audit(*forget)
    expected = (65, "dead letter in") if place == "aside" else (75, "still in the spool")
    assert (result.returncode, expected[1] in result.stderr) == (expected[0], True), result.stderr
    assert NAMED not in result.stderr
    assert (features(audit), labels_of(audit)) == before
    if place == "spool":
        audit.ship_the_spool()
        assert audit(*forget).returncode == 0
        assert labels_of(audit) == set()
        assert not any(any(kinds) for kinds in features(audit).values())


def test_labels_of_others_in_the_spool_do_not_stop_forgetting(audit: AuditSite) -> None:
    [identifier] = audit.ship(prediction(transaction_id="t-1", entity_key="e-1"))
    now = datetime.now(UTC)
    others = [
        new_label(1, now, "analyst", transaction_id="t-2"),
        new_label(1, now, "analyst", prediction_id=uuid7()),
    ]
    fill(audit.state.spool, [*others, prediction(entity_key="e-2")])
    result = audit("forget", "--entity", "e-1", "--prediction", identifier)
    assert result.returncode == 0, result.stderr
    assert audit("forget", "--entity", "\x1b").returncode == 64


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
