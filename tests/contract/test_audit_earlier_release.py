"""The audit tables of this release under the programs of the release before."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from fraudops.audit.dead_letters import DeadLetters
from fraudops.audit.records import encode, new_label
from fraudops.spool.segments import NEWER
from fraudops.state import State
from tests.support.audit_records import fill, prediction, refusals
from tests.support.releases import unpack
from tests.support.shippers import dead_letters, expect, expect_empty, ids

PROMOTE = """
import asyncio, os
from fraudops.audit.migrations import upgrade
from fraudops.promotion.journal import DatabaseJournal
from fraudops.promotion.ports import Attempt

url = os.environ["DATABASE_URL"]
print(asyncio.run(upgrade(url)).newer)
journal = DatabaseJournal(url, "m", print)
for outcome in ("started", "done"):
    at = "2026-11-02T12:00:00+00:00"
    attempt = Attempt("r", "me", "broadcast", at, "2", "d", epoch=3, outcome=outcome)
    asyncio.run(journal.write(attempt))
"""


def test_the_release_before_writes_its_promotions_on_this_schema(
    database: str, tmp_path: Path
) -> None:
    tree = unpack("0.2.0", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", PROMOTE],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "DATABASE_URL": database},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # It leaves the newer schema as it is, and says nothing about a row that must wait.
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT outcome, epoch, act, behind FROM promotions").fetchall()
    assert rows == [("done", 3, None, None)]


def test_the_release_before_ships_these_records_and_keeps_a_kind_that_it_does_not_know(
    database: str, tmp_path: Path
) -> None:
    tree, state = unpack("0.2.0", tmp_path / "code"), State.at(tmp_path / "state")
    label = new_label(1, datetime.now(UTC), "analyst", transaction_id="t-1", client="shop")
    answered, count = prediction(client="shop"), refusals()
    fill(state.spool, [answered, label, count])
    environment = {"PYTHONPATH": str(tree), "DATABASE_URL": database}
    with (tmp_path / "log").open("wb") as log:
        shipper = subprocess.Popen(
            [sys.executable, "-m", "services.shipper"],
            cwd=tree,
            env={**os.environ, **environment, "FRAUDOPS_STATE": str(state.root)},
            stdout=log,
            stderr=log,
        )
    try:
        expect(database, [answered.id])
        expect_empty(state)
    finally:
        shipper.terminate()
        shipper.wait(20)
    assert ids(database, "labels") == [label.id]
    assert [entry.data for entry in DeadLetters(state.spool, NEWER).entries()] == [encode(count)]
    assert dead_letters(state) == []
