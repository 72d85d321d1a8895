"""A long backlog of the spool shipped to PostgreSQL, and the same rows by a plain COPY into a table
without any index.
"""

import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import psycopg

from fraudops.audit.database import migrate
from fraudops.audit.records import encode
from fraudops.audit.shipper_status import read_shipper_status
from fraudops.schema import load_schema
from fraudops.settings import AuditSettings
from fraudops.spool import SpoolWriter
from fraudops.state import State
from tests.support.audit_records import prediction

PART = 1 << 20
GROUP = 500


@dataclass(frozen=True)
class Shipped:
    """Rows in the table, seconds from the shipper's start, and its resident bytes: when a tenth was
    shipped, and at most after that.
    """

    rows: int
    seconds: float
    early: int
    most: int


def fill(state: State, rows: int, seed: int) -> None:
    """As one worker would, with features as the packaged schema has them."""
    chance, names = random.Random(seed), load_schema().names
    writer = SpoolWriter(state.spool, "worker-1", AuditSettings(spool_max_bytes=1 << 40))
    for start in range(0, rows, GROUP):
        features = [
            {name: chance.gauss(0, 1) for name in names} for _ in range(min(GROUP, rows - start))
        ]
        writer.append_many(
            [
                encode(prediction(features=row, transaction_id=f"backlog-{start + number}"))
                for number, row in enumerate(features)
            ]
        )
    writer.close()


def ship(state: State, url: str, rows: int, seconds: float) -> Shipped:
    """By the real shipper, started here, until the table has them all; a backlog that is not
    shipped in time fails.
    """
    migrate(url)
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": url,
        "FRAUDOPS_STATE": str(state.root),
    }
    began, sizes = time.monotonic(), list[tuple[int, int]]()
    with subprocess.Popen([sys.executable, "-m", "services.shipper"], env=environment) as shipper:
        try:
            memory = psutil.Process(shipper.pid)
            while (shipped := _shipped(state, shipper.pid)) < rows:
                sizes.append((shipped, memory.memory_info().rss))
                assert time.monotonic() - began < seconds, (
                    f"{shipped} of {rows} rows shipped in {seconds:g} s"
                )
                time.sleep(0.1)
            took = time.monotonic() - began
            sizes.append((shipped, memory.memory_info().rss))
        finally:
            shipper.terminate()
    grown = [size for count, size in sizes if count >= rows // 10]
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM predictions").fetchone()
    return Shipped(row[0] if row else 0, took, grown[0], max(grown))


def _shipped(state: State, pid: int) -> int:
    told = read_shipper_status(state)
    return told.shipped if told and told.pid == pid else 0


def plain_copy(url: str, folder: Path, times: int = 3) -> float:
    """The median seconds of it."""
    file, took = folder / "rows.copy", list[float]()
    with psycopg.connect(url, autocommit=True) as connection:
        with (
            file.open("wb") as out,
            connection.cursor().copy(
                "COPY (SELECT * FROM predictions) TO STDOUT (FORMAT binary)"
            ) as copy,
        ):
            for part in copy:
                out.write(part)
        connection.execute("CREATE TABLE plain (LIKE predictions)")
        for _ in range(times):
            connection.execute("TRUNCATE plain")
            began = time.monotonic()
            with (
                file.open("rb") as rows,
                connection.cursor().copy("COPY plain FROM STDIN (FORMAT binary)") as copy,
            ):
                while part := rows.read(PART):
                    copy.write(part)
            took.append(time.monotonic() - began)
        connection.execute("DROP TABLE plain")
    file.unlink()
    return median(took)
