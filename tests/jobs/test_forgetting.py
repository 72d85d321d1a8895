"""`fraudops audit forget`: what it clears, deletes and refuses, and records on their way."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import psycopg
import pytest

from fraudops.audit.connection import connect
from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.forgetting import ForgetRequest, Forgotten, forget
from fraudops.audit.records import encode, new_label
from fraudops.errors import StoreDownError
from fraudops.feature_encryption import protection
from fraudops.ids import uuid7
from tests.support.audit_records import fill, prediction, refusals
from tests.support.audit_site import AuditSite

CARD = "4111111111111111"


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
    assert forgotten("--entity", "unknown", "--transaction", "t-9") == (0, 0, cleared, gone)
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


class Interrupted:
    """A connection that does something before its n-th statement."""

    def __init__(self, connection: Any, statement: int, act: Callable[[], object]) -> None:
        self._connection, self._left, self._act = connection, statement, act

    @property
    def reached(self) -> bool:
        return self._left <= 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        return self._counted(found) if name in ("fetch", "fetchval", "execute") else found

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                await asyncio.to_thread(self._act)
            return await method(*arguments)

        return call


async def forget_interrupted(
    audit: AuditSite, request: ForgetRequest, statement: int, act: Callable[[], object]
) -> tuple[Forgotten | None, bool]:
    """Return what was forgotten, None for a refusal, and whether the statement was reached."""
    connection = await connect(audit.url)
    interrupted = Interrupted(connection, statement, act)
    try:
        return await forget(interrupted, audit.state, request), interrupted.reached
    except StoreDownError:
        return None, interrupted.reached
    finally:
        await connection.close()


def test_a_prediction_that_is_shipped_meanwhile_is_forgotten_or_refused(audit: AuditSite) -> None:
    """The shipper commits it between any two statements."""
    refused, reached, statement = set[bool](), True, 0
    while reached:
        statement += 1
        waiting = prediction(entity_key=f"e-{statement}")
        fill(audit.state.spool, [waiting])
        request = ForgetRequest.of([], [], [f"e-{statement}"])
        done, reached = asyncio.run(
            forget_interrupted(audit, request, statement, audit.ship_the_spool)
        )
        audit.ship_the_spool()
        assert (features(audit)[waiting.id] == (None, None)) == (done is not None), statement
        assert done in (None, Forgotten(1, 0)), statement
        refused.add(done is None)
    assert refused == {True, False}


def begin_to_detach(url: str, day: str) -> None:
    """Detach the day as retention does, up to the wait for readers, and die there."""
    with psycopg.connect(url, autocommit=True) as retaining, psycopg.connect(url) as reader:
        reader.execute("SELECT FROM predictions LIMIT 1")
        retaining.execute("SET statement_timeout = '300ms'")
        with contextlib.suppress(psycopg.errors.QueryCanceled):
            retaining.execute(f"ALTER TABLE predictions DETACH PARTITION {day} CONCURRENTLY")


@pytest.mark.parametrize("state", ["pending", "detached"])
def test_nothing_is_forgotten_while_a_day_is_out_of_the_table(audit: AuditSite, state: str) -> None:
    old = prediction(datetime.now(UTC) - timedelta(days=3), transaction_id=NAMED)
    audit.ship(old, prediction(transaction_id=NAMED))
    day = f"predictions_{datetime.now(UTC) - timedelta(days=3):%Y%m%d}"
    begin_to_detach(audit.url, day)
    if state == "detached":
        with psycopg.connect(audit.url, autocommit=True) as connection:
            connection.execute(f"ALTER TABLE predictions DETACH PARTITION {day} FINALIZE")
    for names in (("--prediction", old.id), ("--transaction", NAMED)):
        result = audit("forget", *names)
        reason = f"{day} is out of the table predictions"
        assert (result.returncode, reason in result.stderr) == (75, True), result.stderr
    assert all(kinds != (None, None) for kinds in features(audit).values())
    with psycopg.connect(audit.url) as connection:
        connection.execute(f"ALTER TABLE predictions DETACH PARTITION {day} FINALIZE") if (
            state == "pending"
        ) else None
        connection.execute(f"DROP TABLE {day}")
    assert audit("forget", "--transaction", NAMED).returncode == 0


def test_a_day_that_leaves_the_table_meanwhile_stops_forgetting(audit: AuditSite) -> None:
    reached, statement = True, 0
    while reached:
        statement += 1
        moment = datetime.now(UTC) - timedelta(days=2 + statement)
        old = prediction(moment, entity_key=f"e-{statement}")
        audit.ship(old)
        request = ForgetRequest.of([], [], [f"e-{statement}"])
        day = f"predictions_{moment:%Y%m%d}"

        def leave(day: str = day) -> None:
            begin_to_detach(audit.url, day)

        done, reached = asyncio.run(forget_interrupted(audit, request, statement, leave))
        with psycopg.connect(audit.url) as connection:
            [kept] = connection.execute(f"SELECT features FROM {day}").fetchall()
            assert (done is None) == reached, statement
            assert (kept[0] is not None) == reached, statement
            if reached:
                connection.execute(f"ALTER TABLE predictions DETACH PARTITION {day} FINALIZE")
                connection.execute(f"DROP TABLE {day}")


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


def test_without_a_spool_it_names_the_metrics_of_all_that_may_come_back(audit: AuditSite) -> None:
    audit.ship(prediction(entity_key="e-1"))
    assert not audit.state.spool.exists()
    result = audit("forget", "--entity", "e-1")
    assert result.returncode == 0, result.stderr
    for part in ("rows", "aside_bytes", "newer_bytes", "abandoned_bytes"):
        assert f"fraudops_spool_{part}" in result.stderr
