"""The rows of `promotions` in a real PostgreSQL: what may replace what, and how they are read."""

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from msgspec.structs import replace

from fraudops.database_url import read_database_url
from fraudops.errors import StoreDownError
from fraudops.promotion import history, journal
from fraudops.promotion.attempt import Attempt, replaces
from fraudops.promotion.history import PastAct, read_history
from fraudops.promotion.journal import DatabaseJournal
from tests.support.fault_proxy import FaultProxy

STARTED = Attempt(
    request="job-1",
    requested_by="ada",
    at="2026-11-29T10:00:00.000+00:00",
    act="rollback",
    strategy="rollout",
    version="7",
    digest="d" * 64,
    from_version="8",
    epoch=9,
    waiver_reason="an emergency",
    actor="ada@example.com",
    authenticated=True,
    approver="eve",
    signer="12ab",
)
DONE = replace(STARTED, outcome="done", finished_at="2026-11-29T10:00:02.500+00:00")
UNCONFIRMED = replace(
    STARTED,
    outcome="unconfirmed",
    reason="not confirmed by a, b",
    behind=("a", "b"),
    finished_at="2026-11-29T10:01:00.000+00:00",
)
REFUSED = replace(DONE, outcome="refused", epoch=8, reason="the store is down")
LATE = replace(REFUSED, epoch=None)
LEFT = replace(STARTED, outcome="refused", reason="its promoter ended before the commit")
PROVISIONAL = replace(STARTED, outcome="unconfirmed", reason="its promoter ended")


async def outcomes(url: str, *attempts: Attempt) -> list[str]:
    """Write the rows in turn and return the outcomes that are stored then."""
    rows = DatabaseJournal(url, "fraud")
    for attempt in attempts:
        await rows.write(attempt)
    return [act.outcome for act in await read_history(url, "fraud", 99)]


async def test_a_row_is_read_back_whole(database: str) -> None:
    assert await outcomes(database, STARTED, UNCONFIRMED) == ["unconfirmed"]
    assert await read_history(database, "fraud", 1) == [
        PastAct(
            request="job-1",
            started_at=datetime(2026, 11, 29, 10, 0, tzinfo=UTC),
            finished_at=datetime(2026, 11, 29, 10, 1, tzinfo=UTC),
            act="rollback",
            from_version="8",
            to_version="7",
            to_digest="d" * 64,
            epoch=9,
            strategy="rollout",
            requested_by="ada",
            outcome="unconfirmed",
            reason="not confirmed by a, b",
            waiver_reason="an emergency",
            behind=("a", "b"),
            actor="ada@example.com",
            authenticated=True,
            approver="eve",
            signer="12ab",
        )
    ]


async def test_a_row_without_names_keeps_those_that_are_stored(database: str) -> None:
    """The row of a promoter that died is made from its reservation, which has no names."""
    nameless = replace(PROVISIONAL, actor=None, authenticated=False, approver=None, signer=None)
    for attempts in ((STARTED, nameless), (nameless, DONE)):
        await outcomes(database, *(replace(row, request=str(attempts)) for row in attempts))
    for act in await read_history(database, "fraud", 9):
        assert (act.actor, act.authenticated, act.approver) == ("ada@example.com", True, "eve")


async def test_a_name_that_nothing_proves_is_stored_as_such(database: str) -> None:
    await outcomes(database, replace(DONE, authenticated=False))
    (act,) = await read_history(database, "fraud", 9)
    assert (act.actor, act.authenticated) == ("ada@example.com", False)


@pytest.mark.parametrize(
    ("attempts", "stored"),
    [
        ((STARTED, DONE), "done"),
        ((DONE, STARTED), "done"),
        ((STARTED, PROVISIONAL), "unconfirmed"),
        ((DONE, PROVISIONAL), "done"),
        ((PROVISIONAL, DONE), "done"),
        # What was reported of a commit is final.
        ((DONE, UNCONFIRMED), "done"),
        ((replace(DONE, epoch=None), PROVISIONAL), "unconfirmed"),
        # The clock of the later try is behind that of the earlier one.
        ((UNCONFIRMED, DONE), "done"),
        ((PROVISIONAL,), "unconfirmed"),
        # A try that committed, after one that was refused.
        ((REFUSED, PROVISIONAL), "unconfirmed"),
        # A try that did not know of the other one's commit.
        ((PROVISIONAL, LATE), "unconfirmed"),
        ((UNCONFIRMED, LATE), "unconfirmed"),
        ((LATE, replace(LATE, outcome="unchanged")), "done"),
        # A promotion of what serves has no epoch.
        ((replace(UNCONFIRMED, epoch=None), replace(LATE, outcome="unchanged")), "done"),
        ((UNCONFIRMED, LEFT), "unconfirmed"),
        ((STARTED, LEFT), "refused"),
    ],
)
async def test_a_start_replaces_nothing_and_a_provisional_outcome_no_later_one(
    database: str, attempts: tuple[Attempt, ...], stored: str
) -> None:
    assert await outcomes(database, *attempts) == [stored]


async def test_the_table_and_the_record_replace_the_same_rows(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`replaces` stands in Python and in SQL."""
    # The patience of one act, and here are the rows of 64.
    monkeypatch.setattr(journal, "PATIENCE_SECONDS", 60.0)
    overtaken = replace(UNCONFIRMED, outcome="overtaken")
    every = (STARTED, PROVISIONAL, LEFT, DONE, UNCONFIRMED, REFUSED, LATE, overtaken)
    pairs = {f"{one}-{two}": (every[one], every[two]) for one in range(8) for two in range(8)}
    rows, expected = DatabaseJournal(database, "fraud"), dict[str, str]()
    for turn in range(2):
        # One connection for all rows of a turn. A `write` for each costs 9 s.
        await rows._write(
            replace(pair[turn], request=request, reason=pair[turn].reason or pair[turn].outcome)
            for request, pair in pairs.items()
        )
    for request, (stored, new) in pairs.items():
        kept = new if replaces(new, stored) else stored
        expected[request] = str(kept.reason or kept.outcome)
    found = await read_history(database, "fraud", 99)
    assert {act.request: act.reason for act in found} == expected


@pytest.mark.parametrize(
    ("stored", "finished_at", "then"),
    [
        (UNCONFIRMED, DONE.finished_at, "unconfirmed"),
        (DONE, UNCONFIRMED.finished_at, "done"),
        (LATE, UNCONFIRMED.finished_at, "refused"),
        (STARTED, DONE.finished_at, "refused"),
    ],
)
async def test_a_row_of_an_old_file_replaces_only_what_finished_earlier(
    database: str, tmp_path: Path, stored: Attempt, finished_at: str, then: str
) -> None:
    assert await outcomes(database, stored) == [stored.outcome]
    # As release 0.2.0 writes it: the row of the act and, next to it, the time of its end.
    old = {"request": "job-1", "requested_by": "ada", "at": STARTED.at, "outcome": "refused"}
    path = tmp_path / "promotions.pending"
    path.write_text(json.dumps({"attempt": old, "finished_at": finished_at}) + "\n")
    rows = DatabaseJournal(database, "fraud")
    assert await rows.write_old_file(path) == 1
    assert (path.read_text(), await outcomes(database)) == ("", [then])


async def test_the_newest_rows_of_one_model_come_first(database: str) -> None:
    rows = DatabaseJournal(database, "fraud")
    for minute in (2, 0, 1):
        at = f"2026-11-29T10:{minute:02d}:00.000+00:00"
        await rows.write(replace(STARTED, request=f"job-{minute}", at=at))
    await DatabaseJournal(database, "other").write(replace(STARTED, request="another model's"))
    newest = await read_history(database, "fraud", 2)
    assert [act.request for act in newest] == ["job-2", "job-1"]
    assert [act.seconds for act in newest] == [None, None]


async def test_a_server_that_says_nothing_is_away_after_the_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (history, journal):
        monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}/none"
        url = f"postgresql://me:secret@{address}"
        for call in (read_history(url, "fraud", 1), DatabaseJournal(url, "fraud").write(DONE)):
            with pytest.raises(StoreDownError, match=f"PostgreSQL at {address} does not answer"):
                await call


async def test_a_row_that_the_database_refuses_is_late(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RAISE 'no rows today'; END $$; "
        "CREATE TRIGGER refuse BEFORE INSERT ON promotions EXECUTE FUNCTION refuse()"
    )
    await connection.close()
    with pytest.raises(StoreDownError, match=r"refuses the row of the act \(SQLSTATE P0001\)"):
        await outcomes(database, DONE)


async def test_a_host_that_stays_silent_leaves_time_for_the_next(database: str) -> None:
    """The row is written within the patience of the act, which is shorter than a host's limit."""
    parts = read_database_url(database)
    with FaultProxy(parts.hosts[0][1]).running() as proxy:
        proxy.stall()
        silent = f"127.0.0.1:{proxy.port},{parts.host_list}"
        await DatabaseJournal(database.replace(parts.host_list, silent), "fraud").write(DONE)
    assert [act.outcome for act in await read_history(database, "fraud", 9)] == ["done"]


async def test_a_file_of_the_url_that_is_wrong_makes_the_row_late(database: str) -> None:
    """The act may have committed, so its row is written by a later pass."""
    url = f"{database}?sslmode=verify-full&sslrootcert=/nowhere/ca.crt"
    with pytest.raises(StoreDownError, match="file of sslrootcert"):
        await DatabaseJournal(url, "fraud").write(DONE)
