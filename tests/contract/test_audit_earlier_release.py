"""The audit tables of this release under the programs of the release before."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from tests.support.releases import unpack

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
