"""`python -m benchmarks.migrations`: the upgrade of an audit that is full already.

Each migration after revision 0002 is timed on tables of two sizes, and then the index that the days
lack afterwards. Before the upgrade hook ends, only the columns must be there.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
import numpy as np
import psycopg
from alembic.runtime.environment import EnvironmentContext
from psycopg import sql
from sqlalchemy import create_engine, make_url

from benchmarks import results
from benchmarks.audit_rows import AuditTables
from benchmarks.commands import BenchmarkPlan, conclude, quick_option, results_option, say
from benchmarks.processes import SubjectError, free_port
from benchmarks.results import Result, Table
from benchmarks.spread import Claim, short, spread
from fraudops.audit.indexing import index_days
from fraudops.audit.migrations import INDEX_SECONDS, VERSION_TABLE, migration_scripts
from services.supervisor.postgresql import OWNER, PostgreSQL
from services.supervisor.postgresql_standalone import start, stop

FIRST = "0002"
DAY_ROWS, QUICK_DAY_ROWS = 1_000_000, 20_000
# Days in each of the tables.
DAYS, QUICK_DAYS = (1, 10), (1, 3)
PROJECTED = (100_000_000, 1_000_000_000)
# The upgrade hook of the chart has 240 s. A step that takes longer than this holds up writers.
STEP_SECONDS = 1.0
NO_LIMIT = 86_400.0


class Upgraded(msgspec.Struct, frozen=True):
    """Seconds of each step on a table of `rows`, by revision, and of the index of all days."""

    rows: int
    steps: dict[str, float]
    index: float


@click.command()
@results_option
@quick_option
def command(results: Path | None, quick: bool) -> None:
    """Measure the migrations of an audit of 10,000,000 rows, and project them."""
    # Alembic logs each step, which would hide the figures.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with (
        tempfile.TemporaryDirectory(prefix="fraudops-bench-", ignore_cleanup_errors=True) as folder,
        running(Path(folder)) as server,
    ):
        result = measure(server, BenchmarkPlan.of(1, 0.0, None, quick))
    conclude(result, results)


@contextmanager
def running(folder: Path) -> Iterator[PostgreSQL]:
    """An embedded PostgreSQL without the audit's tables."""
    server = PostgreSQL(folder / "server", free_port())
    process = start(server, folder / "postgresql.log")
    try:
        yield server
    finally:
        stop(process)


def measure(server: PostgreSQL, plan: BenchmarkPlan) -> Result:
    result = results.begin("migrations", "Migrations of an audit that is full", plan)
    day_rows = QUICK_DAY_ROWS if plan.quick else DAY_ROWS
    result.settings = {"rows a day": day_rows, "from revision": FIRST}
    taken = [_upgrade(server, days, day_rows) for days in (QUICK_DAYS if plan.quick else DAYS)]
    result.tables = [_seconds(taken), _projections(taken)]
    largest = taken[-1]
    result.claims = [
        Claim(
            f"the longest migration of {largest.rows:,} rows takes at most {STEP_SECONDS:g} s",
            spread([max(largest.steps.values())]),
            STEP_SECONDS,
            "at most",
        )
    ]
    result.notes = [
        "A migration adds columns and rewrites no row. Its time grows with the number of days, a"
        " few milliseconds for each.",
        f"The index is built day by day without a lock. An upgrade spends {INDEX_SECONDS} s on it"
        f" at most, here enough for {_rows_within(taken, INDEX_SECONDS):,} rows; each later run"
        " of retention goes on. Until then reads of a large window are slower, never wrong.",
        "The projection is a straight line through the two sizes. Nothing else used the database.",
    ]
    result.details = {"taken": taken}
    return result


def _upgrade(server: PostgreSQL, days: int, day_rows: int) -> Upgraded:
    """Fill a new database at revision FIRST, and time each step to the newest revision."""
    name = f"migrations_{days}"
    with psycopg.connect(server.admin_url(), autocommit=True) as admin:
        owned = sql.SQL("CREATE DATABASE {} OWNER {}")
        admin.execute(owned.format(sql.Identifier(name), sql.Identifier(OWNER)))
        url = server.url(name)
        _migrate(url, FIRST)
        started = time.monotonic()
        audit = AuditTables(url, day_rows)
        audit.grow(days * day_rows)
        audit.connection.close()
        say(f"{audit.rows:,} rows made in {time.monotonic() - started:.0f} s")
        steps = {revision: _migrate(url, revision) for revision in _revisions_after(FIRST)}
        started = time.perf_counter()
        days_indexed = asyncio.run(index_days(url, NO_LIMIT, "fraudops-bench"))
        index = time.perf_counter() - started
        if len(days_indexed.done) != days:
            raise SubjectError(f"of {days} days these have no index: {days_indexed.left}")
        say(f"{audit.rows:,} rows: {steps}, index {index:.1f} s")
        admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
    return Upgraded(audit.rows, steps, index)


def _revisions_after(first: str) -> Sequence[str]:
    """Return the later revisions, the oldest first."""
    _, script = migration_scripts()
    found = [step.revision for step in script.iterate_revisions("heads", first)]
    return found[::-1]


def _migrate(url: str, revision: str) -> float:
    """Migrate to a revision as `fraudops migrate` does; return the seconds of the transaction."""
    config, script = migration_scripts()
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        with engine.connect() as connection:
            connection.rollback()
            started = time.perf_counter()
            with (
                connection.begin(),
                EnvironmentContext(
                    config,
                    script,
                    fn=lambda at, _context: script._upgrade_revs(revision, at),
                    destination_rev=revision,
                ) as environment,
            ):
                environment.configure(connection=connection, version_table=VERSION_TABLE)
                environment.run_migrations()
            return time.perf_counter() - started
    finally:
        engine.dispose()


def _line(taken: Sequence[Upgraded], seconds: Sequence[float]) -> tuple[float, float]:
    """Return slope and intercept of the straight line through the seconds by rows."""
    slope, intercept = np.polyfit([one.rows for one in taken], seconds, 1)
    return float(slope), float(intercept)


def _rows_within(taken: Sequence[Upgraded], seconds: float) -> int:
    """Return how many rows are indexed in so many seconds, at the rate of the largest table."""
    return int(taken[-1].rows / taken[-1].index * seconds)


def _seconds(taken: Sequence[Upgraded]) -> Table:
    revisions = list(taken[0].steps)
    rows = [
        (f"{one.rows:,}", *(short(one.steps[each]) for each in revisions), short(one.index))
        for one in taken
    ]
    return Table("Seconds", ("rows", *revisions, "index of all days"), rows)


def _projections(taken: Sequence[Upgraded]) -> Table:
    migrations, index = [sum(one.steps.values()) for one in taken], [one.index for one in taken]
    rows = [
        (f"{rows:,}", *(short(_projected(taken, each, rows)) for each in (migrations, index)))
        for rows in PROJECTED
    ]
    return Table("Projected seconds", ("rows", "all migrations", "index of all days"), rows)


def _projected(taken: Sequence[Upgraded], seconds: Sequence[float], rows: int) -> float:
    """Return the point of the straight line, but no less than the largest measurement."""
    slope, intercept = _line(taken, seconds)
    return max(slope * rows + intercept, *seconds)


if __name__ == "__main__":
    command()
