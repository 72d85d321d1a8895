"""`fraudops audit` against a real PostgreSQL and a real spool: what it counts, what it refuses,
what it brings back.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow.parquet
import pytest

from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.records import Prediction, encode, new_label
from fraudops.errors import StoreDownError
from fraudops.feature_encryption import protection
from fraudops.ids import uuid7
from fraudops.settings import AuditSettings
from fraudops.spool import SpoolReader, SpoolWriter
from fraudops.spool.segments import list_segments
from fraudops.state import State
from jobs.audit import command
from services.shipper.sink import Sink
from tests.support.audit_records import fill, prediction
from tests.support.commands import Caller, Told

CARD = "4111111111111111"


class AuditSite:
    """A state folder with a spool, a database with the audit's tables, and the command over both."""

    def __init__(self, url: str, folder: Path, call: Caller) -> None:
        self.url, self.state, self._call = url, State.at(folder), call
        self.aside = DeadLetters(self.state.spool)

    def __call__(self, *arguments: str | Path, stdin: str = "", **environment: str) -> Told:
        return self._call(
            *arguments,
            "--state",
            self.state.root,
            stdin=stdin,
            **({"DATABASE_URL": self.url} | environment),
        )

    def ship(self, *records: Prediction) -> list[str]:
        """Straight to the table, as the shipper does; their ids."""

        async def go() -> None:
            sink = Sink(self.url)
            await sink.ship([encode(record) for record in records])
            await sink.close()

        asyncio.run(go())
        return [record.id for record in records]

    def ship_the_spool(self) -> int:
        """What a shipper would: everything to the table, what is refused aside, the segments
        removed. How many rows were new.
        """

        async def go() -> int:
            sink, spool, new = Sink(self.url), SpoolReader(self.state.spool), 0
            while group := spool.read(1 << 20):
                outcome = await sink.ship(
                    [payload for _, piece in group for payload in piece.payloads]
                )
                self.aside.put(outcome.rejected)
                new += outcome.new
                for reader, piece in group:
                    reader.commit(piece)
            spool.close()
            await sink.close()
            return new

        return asyncio.run(go())

    def verify(self, ids: Iterable[str], **environment: str) -> tuple[int, dict[str, Any]]:
        told = self("verify", "--answers", "-", "--json", stdin="\n".join(ids), **environment)
        return told.returncode, json.loads(told.stdout)


@pytest.fixture
def audit(
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> AuditSite:
    return AuditSite(database, tmp_path / "state", Caller("audit", command, monkeypatch, capsys))


def test_answers_in_table_spool_and_aside_are_each_counted_where_they_are(audit: AuditSite) -> None:
    table = audit.ship(*(prediction() for _ in range(5)))
    spool = fill(
        audit.state.spool,
        [
            *(prediction() for _ in range(3)),
            new_label(1, datetime.now(UTC), "analyst", transaction_id="t"),
        ],
    )[:3]
    poison = prediction()
    audit.aside.put(
        [
            RejectedRecord(encode(poison), "why"),
            RejectedRecord(b"torn", "damaged or unfinished: x from byte 3"),
        ]
    )
    code, found = audit.verify([*table, *spool, poison.id])
    assert code == 0
    assert found["log"] == {
        "lines": 9,
        "repeated": 0,
        "in_table": 5,
        "in_spool": 3,
        "set_aside": 1,
        "expired": 0,
        "lost": 0,
    }
    counts = {
        name: found[name]
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
    audit.aside.put([RejectedRecord(encode(records[0]), "why")])
    code, found = audit.verify(audit.ship(*records))
    assert (code, found["in_spool"], found["set_aside"], found["log"]["in_table"]) == (0, 0, 0, 4)


def test_a_lost_answer_is_refused_and_counted(audit: AuditSite) -> None:
    table = audit.ship(prediction(), prediction())
    code, found = audit.verify([*table, uuid7(), uuid7()])
    assert (code, found["log"]["lost"], found["agrees"]) == (65, 2, False)
    told = audit("verify", "--answers", "-", stdin=f"{table[0]}\n{uuid7()}\n")
    assert "1 of 2 answers are lost" in told.stderr


def test_an_answer_of_a_day_that_retention_took_is_not_called_lost(audit: AuditSite) -> None:
    old = prediction(datetime.now(UTC) - timedelta(days=31))
    assert audit.verify([old.id])[1]["log"]["lost"] == 1
    code, found = audit.verify([old.id], FRAUDOPS_RETENTION__DAYS="30")
    assert (code, found["log"]["expired"], found["log"]["lost"]) == (0, 1, 0)


@pytest.mark.parametrize("shift", [timedelta(milliseconds=1), timedelta(days=1)])
def test_an_id_that_stands_twice_is_refused_wherever_the_second_row_is(
    audit: AuditSite, shift: timedelta
) -> None:
    [identifier] = audit.ship(prediction())
    with psycopg.connect(audit.url) as connection:
        names = [
            row[0]
            for row in connection.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = 'predictions'::regclass AND attnum > 0"
            )
        ]
        columns = ", ".join(f'"{name}"' for name in names)
        again = ", ".join(
            '"timestamp" + %s' if name == "timestamp" else f'"{name}"' for name in names
        )
        connection.execute(
            f"INSERT INTO predictions ({columns}) SELECT {again} FROM predictions".encode(), [shift]
        )
    code, found = audit.verify([identifier])
    assert (code, found["duplicated"], found["log"]["lost"]) == (65, 1, 0)
    told = audit(
        "verify",
        "--until",
        (datetime.now(UTC) + timedelta(days=2)).isoformat(),
        "--since",
        (datetime.now(UTC) - timedelta(days=1)).isoformat(),
    )
    assert (told.returncode, "1 ids are in the table twice" in told.stderr) == (65, True)


def test_without_an_answer_log_table_and_spool_are_held_against_each_other(
    audit: AuditSite,
) -> None:
    audit.ship(*(prediction() for _ in range(3)))
    fill(audit.state.spool, [prediction()])
    told = audit("verify", "--json")
    found = json.loads(told.stdout)
    assert (told.returncode, found["rows"], found["in_spool"], found["log"]) == (0, 3, 1, None)
    assert json.loads(audit("verify", "--json", "--until", "2026-01-01").stdout)["rows"] == 0


def test_an_answer_log_may_hold_answers_as_they_were_given(audit: AuditSite) -> None:
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
    code, found = audit.verify(lines)
    assert (code, found["log"]["lines"], found["log"]["repeated"], found["log"]["in_table"]) == (
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
    told = audit("verify", "--answers", "-", stdin=f"{uuid7()}\n{line}\n")
    assert told.returncode == 64
    assert "line 2 of the answers" in told.stderr
    assert CARD not in told.stderr


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
        (("replay", "/dev/null/x"), "does not exist"),
        (("forgive",), "No such command"),
    ],
)
def test_wrong_usage_is_refused_with_its_reason(
    audit: AuditSite, arguments: tuple[str, ...], complaint: str
) -> None:
    told = (
        audit._call(*arguments, DATABASE_URL=audit.url)
        if arguments[0] == "forgive"
        else audit(*arguments)
    )
    assert told.returncode == 64
    assert complaint in " ".join(told.stderr.split())


def test_on_the_cluster_the_job_gets_the_subcommand_and_what_was_typed_after_it(
    audit: AuditSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr("jobs.on_cluster.run_as_job", lambda *arguments: sent.append(arguments))
    assert (
        audit("verify", "--on-cluster", "--release", "shop", "--since", "2026-01-01").returncode
        == 0
    )
    assert audit("export", "--out", "/export/x.parquet", "--on-cluster").returncode == 0
    assert [
        (release, spec.template, spec.module, spec.arguments, spec.shards)
        for release, _namespace, spec in sent
    ] == [
        ("shop", "promote", "jobs.audit", ["verify", "--since", "2026-01-01"], None),
        (None, "retention", "jobs.audit", ["export", "--out", "/export/x.parquet"], None),
    ]


def test_without_postgresql_it_says_so_and_can_be_tried_again(audit: AuditSite) -> None:
    told = audit("verify", DATABASE_URL="postgresql://u:p@127.0.0.1:1/d")
    assert (told.returncode, "127.0.0.1:1/d does not answer" in told.stderr) == (75, True)


def test_an_export_holds_exactly_the_window_in_order(audit: AuditSite, tmp_path: Path) -> None:
    noon = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=3)
    sent = audit.ship(*(prediction(noon + timedelta(hours=6 * number)) for number in range(12)))
    file = tmp_path / "window.parquet"
    window = (
        "--since",
        (noon + timedelta(hours=6)).isoformat(),
        "--until",
        (noon + timedelta(hours=60)).isoformat(),
    )
    told = audit("export", "--out", file, "--json", *window)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["rows"] == 9
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert [row["id"] for row in rows] == sent[1:10]
    assert json.loads(rows[0]["features"]) == {"V1": -1.25, "Amount": 12.5}
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["window.parquet"]
    assert audit("export", "--out", file).returncode == 64
    assert (
        "0 predictions"
        in audit("export", "--out", tmp_path / "none.parquet", "--until", "2020-01-01").stdout
    )


def test_set_aside_rows_come_back_once_their_fault_is_repaired_and_never_twice(
    audit: AuditSite,
) -> None:
    records = [prediction(fraud_probability=1.5), prediction(fraud_probability=1.25)]
    fill(audit.state.spool, [prediction(), *records])
    assert audit.ship_the_spool() == 1
    audit.aside.put([RejectedRecord(b"torn", "damaged or unfinished: x from byte 3")])
    told = audit("replay", "--dry-run", "--json")
    assert json.loads(told.stdout)["kinds"] == {
        "PostgreSQL refuses it: CheckViolationError 23514": 2,
        "damaged or unfinished": 1,
    }
    assert len(list(audit.aside.entries())) == 3

    told = audit("replay")
    assert (
        told.returncode,
        "2 records are back in the spool; 1 hold no record" in told.stdout,
    ) == (0, True)
    assert audit.ship_the_spool() == 0
    assert len(list(audit.aside.entries())) == 3, "nothing is lost by a replay before the repair"

    with psycopg.connect(audit.url) as connection:
        connection.execute(
            "ALTER TABLE predictions DROP CONSTRAINT predictions_fraud_probability_check"
        )
    copies = {path: path.read_bytes() for path in audit.aside.folder.glob("*.jsonl")}
    assert audit("replay").returncode == 0
    assert audit.ship_the_spool() == 2
    assert [entry.data for entry in audit.aside.entries()] == [b"torn"]
    for path, content in copies.items():
        path.write_bytes(content)
    assert audit("replay").returncode == 0
    assert audit.ship_the_spool() == 0
    assert audit.verify([record.id for record in records])[1]["log"]["in_table"] == 2


def test_a_segment_from_elsewhere_is_taken_in_around_its_damage(
    audit: AuditSite, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    sent = fill(other, [prediction() for _ in range(40)])
    [segment] = [other / each.name for each in list_segments(other)]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(bytes(data[:-2]))
    told = audit("replay", segment, "--json")
    done = json.loads(told.stdout)
    assert (done["records"], done["damaged"], done["segments"]) == (38, 2, 1)
    assert audit.ship_the_spool() == 38
    assert audit("replay", segment, segment).returncode == 0
    assert audit.ship_the_spool() == 0
    assert audit.verify(sent)[1]["log"]["lost"] == 2


def test_a_segment_of_the_spool_itself_is_refused(audit: AuditSite) -> None:
    fill(audit.state.spool, [prediction()])
    [segment] = list_segments(audit.state.spool)
    assert audit("replay", audit.state.spool / segment.name).returncode == 64


def test_a_replay_that_was_killed_goes_on_and_two_do_not_run_at_once(audit: AuditSite) -> None:
    record = prediction()
    audit.aside.put([RejectedRecord(encode(record), "why")])
    audit.aside._take()
    assert audit.verify([record.id])[1]["log"]["set_aside"] == 1
    with audit.aside._alone():
        assert audit("replay").returncode == 75
    assert audit("replay").returncode == 0
    assert audit.ship_the_spool() == 1


def test_a_full_spool_keeps_what_is_set_aside(
    audit: AuditSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    audit.aside.put([RejectedRecord(encode(prediction()), "why")])
    with monkeypatch.context() as patch:
        patch.setattr(
            "fraudops.spool.writer.os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
        )
        with pytest.raises(StoreDownError):
            audit.aside.replay()
    assert len(list(audit.aside.entries())) == 1
    assert audit.aside.replay().records == 1


def test_half_a_line_of_a_killed_shipper_spoils_nothing(audit: AuditSite) -> None:
    audit.aside.put([RejectedRecord(b"first", "why")])
    [path] = audit.aside.folder.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"at":"2026-11-02T00:00:00Z","rea')
    assert [entry.data for entry in audit.aside.entries()] == [b"first"]
    audit.aside.put([RejectedRecord(b"second", "why")])
    assert [entry.data for entry in audit.aside.entries()] == [b"first", b"second"]


def test_in_a_pod_the_shippers_program_replays(audit: AuditSite) -> None:
    audit.aside.put([RejectedRecord(encode(prediction()), "why")])
    environment = {**os.environ, "DATABASE_URL": audit.url, "FRAUDOPS_STATE": str(audit.state.root)}
    done = subprocess.run(
        [sys.executable, "-m", "services.shipper.replay"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["records"] == 1
    assert audit.ship_the_spool() == 1


def test_a_living_writers_records_are_seen_without_taking_its_segment(audit: AuditSite) -> None:
    writer = SpoolWriter(audit.state.spool, "worker-1", AuditSettings())
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


def test_forgotten_features_leave_their_row_and_do_not_come_back(audit: AuditSite) -> None:
    seal = protection("sealed", [bytes(32)])
    assert seal
    plain, sealed, other = prediction(), prediction(), prediction()
    sealed = msgspec.structs.replace(sealed, features=seal(sealed.id, {"V1": 1.0}))
    audit.ship(plain, sealed, other)
    assert features(audit)[sealed.id][1]
    told = audit("forget", "--prediction", plain.id, "--prediction", sealed.id.upper(), "--json")
    assert (told.returncode, json.loads(told.stdout)) == (0, {"forgotten": 2})
    audit.ship(plain, sealed)
    assert features(audit) == {
        plain.id: (None, None),
        sealed.id: (None, None),
        other.id: (other.features, None),
    }
    assert audit("forget", "--prediction", plain.id).returncode == 0
    assert audit.verify([plain.id, sealed.id, other.id])[1]["log"]["in_table"] == 3


def test_what_cannot_be_forgotten_is_said_and_then_nothing_is(audit: AuditSite) -> None:
    [shipped] = audit.ship(prediction())
    [spooled] = fill(audit.state.spool, [prediction()])
    aside = prediction()
    audit.aside.put([RejectedRecord(encode(aside), "why")])
    for identifier, code, reason in (
        (spooled, 75, "still in the spool"),
        (aside.id, 65, "is set aside"),
        (uuid7(), 64, "has no prediction"),
        (CARD, 64, "UUIDv7"),
    ):
        told = audit("forget", "--prediction", shipped, "--prediction", identifier)
        assert (told.returncode, reason in told.stderr, CARD in told.stderr) == (code, True, False)
    assert features(audit)[shipped][0]
    assert audit("forget").returncode == 64


def test_what_it_prints_holds_no_card_data(audit: AuditSite) -> None:
    records = [prediction(entity_key=CARD), prediction(entity_key=f"{CARD}\x00")]
    fill(audit.state.spool, records)
    audit.ship_the_spool()
    told = [
        audit("verify"),
        audit("verify", "--json"),
        audit("replay", "--dry-run"),
        audit("replay"),
    ]
    assert all(each.returncode == 0 for each in told)
    assert not any(CARD in each.stdout + each.stderr for each in told)
