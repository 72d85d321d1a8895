"""The time to ship a long backlog, compared with a plain COPY of the same rows.

The plain COPY goes into a table without any index.
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

from fraudops.audit.migrations import migrate
from fraudops.audit.records import encode
from fraudops.audit.shipper_status import read_shipper_status
from fraudops.schema import load_schema
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.state import State
from tests.support.audit_records import prediction

CHUNK_BYTES = 1 << 20
GROUP_ROWS = 500


@dataclass(frozen=True)
class Shipped:
    """The shipped rows, the seconds from the shipper's start, and its resident bytes.

    `early` is the memory when a tenth was shipped, `most` the maximum after that.
    """

    rows: int
    seconds: float
    early: int
    most: int


def fill(state: State, rows: int, seed: int) -> None:
    """Spool `rows` predictions as one worker, with the features of the packaged schema."""
    chance, names = random.Random(seed), load_schema().names
    writer = SpoolWriter(state.spool, "worker-1", SpoolOptions(max_bytes=1 << 40))
    for start in range(0, rows, GROUP_ROWS):
        features = [
            {name: chance.gauss(0, 1) for name in names}
            for _ in range(min(GROUP_ROWS, rows - start))
        ]
        writer.append_many(
            [
                encode(prediction(features=row, transaction_id=f"backlog-{start + number}"))
                for number, row in enumerate(features)
            ]
        )
    writer.close()


def ship(state: State, url: str, rows: int, seconds: float) -> Shipped:
    """Start the real shipper and wait until the table has all rows.

    Raises AssertionError if that takes longer than `seconds`.
    """
    migrate(url)
    environment = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": url,
        "FRAUDOPS_STATE": str(state.root),
    }
    started, sizes = time.monotonic(), list[tuple[int, int]]()
    with subprocess.Popen([sys.executable, "-m", "services.shipper"], env=environment) as shipper:
        try:
            memory = psutil.Process(shipper.pid)
            while (shipped := _shipped(state, shipper.pid)) < rows:
                sizes.append((shipped, memory.memory_info().rss))
                assert time.monotonic() - started < seconds, (
                    f"{shipped} of {rows} rows shipped in {seconds:g} s"
                )
                time.sleep(0.1)
            duration = time.monotonic() - started
            sizes.append((shipped, memory.memory_info().rss))
        finally:
            shipper.terminate()
    grown = [size for count, size in sizes if count >= rows // 10]
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM predictions").fetchone()
    return Shipped(row[0] if row else 0, duration, grown[0], max(grown))


def _shipped(state: State, pid: int) -> int:
    status = read_shipper_status(state)
    return status.shipped if status and status.pid == pid else 0


def plain_copy(url: str, folder: Path, times: int = 3) -> float:
    """Return the median seconds of `times` COPYs of all rows into a table without an index."""
    file, durations = folder / "rows.copy", list[float]()
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
            started = time.monotonic()
            with (
                file.open("rb") as rows,
                connection.cursor().copy("COPY plain FROM STDIN (FORMAT binary)") as copy,
            ):
                while part := rows.read(CHUNK_BYTES):
                    copy.write(part)
            durations.append(time.monotonic() - started)
        connection.execute("DROP TABLE plain")
    file.unlink()
    return median(durations)
