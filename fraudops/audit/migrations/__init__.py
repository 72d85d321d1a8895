"""Alembic migrations, which this module runs without an env.py.

Migrations only add to the schema, so that the previous release keeps working on it.
"""

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any, NamedTuple

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from fraudops.audit.connection import TROUBLE
from fraudops.audit.database import create_engine, translated
from fraudops.audit.indexing import index_days, index_labels
from fraudops.audit.partitions import MIGRATION_LOCK, ensure_partition

logger = logging.getLogger(__name__)
# Not Alembic's default name: MLflow's store has an `alembic_version`, and may share the database.
VERSION_TABLE = "fraudops_schema_version"
LOCK_SECONDS = 20
# A statement that waits for a table's lock makes later readers and writers wait too. So the
# migration gives up after this time, and is tried again.
TABLE_LOCK_SECONDS = 3
# The migration before an upgrade may take four minutes in total. Retention indexes the partitions
# that are left after this time.
INDEX_SECONDS = 60


class Migrated(NamedTuple):
    """The revision of the schema; `newer` if it is of a later release than this one."""

    revision: str
    newer: bool

    def summary(self, address: str) -> str:
        """Return the line that `fraudops migrate` prints about the database at `address`."""
        if self.newer:
            return (
                f"the audit database at {address} has the schema of a newer release "
                f"({self.revision}): the schema stays, and this release works with it"
            )
        return f"the audit database at {address} has this release's schema"


def migrate(url: str) -> Migrated:
    """Upgrade the schema to this release's revision, and create today's and tomorrow's partition.

    Raises StoreDownError.
    """
    return asyncio.run(upgrade(url))


async def upgrade(url: str) -> Migrated:
    """Do what `migrate` does, in the running event loop.

    The migration is one transaction under an advisory lock. A newer schema stays as it is:
    migrations only add to it, so that this release works with it too. Then partitions that lack an
    index get it, and the labels, without a lock on the table and for at most INDEX_SECONDS. A
    missing index makes queries slower, never wrong.

    Raises StoreDownError. It does so too when another migration holds the lock for LOCK_SECONDS, or
    a table is in use for TABLE_LOCK_SECONDS; then nothing has changed.
    """
    engine = create_engine(url)
    try:
        with translated(url):
            async with engine.begin() as connection:
                await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
                await connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK}
                )
                await connection.execute(text(f"SET LOCAL lock_timeout = '{TABLE_LOCK_SECONDS}s'"))
                migrated = await connection.run_sync(_upgrade)
                raw = (await connection.get_raw_connection()).driver_connection
                today = datetime.now(UTC).date()
                for day in (today, today + timedelta(days=1)):
                    await ensure_partition(raw, day, TABLE_LOCK_SECONDS)
        deadline = time.monotonic() + INDEX_SECONDS
        try:
            indexed = await index_days(url, INDEX_SECONDS, "fraudops-migrate")
            if indexed.limit:
                logger.warning("some days cannot be indexed", extra={"reason": indexed.limit})
            await index_labels(url, deadline - time.monotonic(), "fraudops-migrate")
        except TROUBLE as error:
            logger.warning(
                "some days were not indexed; the next run of retention indexes them",
                extra={"reason": type(error).__name__},
            )
        return migrated
    finally:
        await engine.dispose()


def migration_scripts() -> tuple[Config, ScriptDirectory]:
    """Return Alembic's configuration and the migrations of this release."""
    config = Config()
    config.set_main_option("script_location", str(resources.files("fraudops.audit.migrations")))
    return config, ScriptDirectory.from_config(config)


def _upgrade(connection: Connection) -> Migrated:
    config, script = migration_scripts()
    head = str(script.get_current_head())
    options = {"version_table": VERSION_TABLE}
    current = MigrationContext.configure(connection, opts=options).get_current_revision()
    # Revisions are numbers of four digits, so that they sort by age.
    if current and current > head:
        return Migrated(current, newer=True)

    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(config, script, fn=steps, destination_rev="head") as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE)
        environment.run_migrations()
    return Migrated(head, newer=False)
