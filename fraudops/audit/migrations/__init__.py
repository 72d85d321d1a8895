"""Alembic migrations, run by our own few lines rather than an env.py: they only ever expand, so
that the previous release keeps running.
"""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any, NamedTuple

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from fraudops.audit.connection import TROUBLE, open_connection
from fraudops.audit.database import create_engine, translated
from fraudops.audit.indexing import index_days
from fraudops.audit.partitions import MIGRATION_LOCK, ensure_partition

logger = logging.getLogger(__name__)
# MLflow's store has an `alembic_version` too, and the two may share a database.
VERSION_TABLE = "fraudops_schema_version"
LOCK_SECONDS = 20
# Whoever comes to a table behind a statement that waits for it waits as well: the migration gives
# up, and is tried again, before that is felt.
TABLE_LOCK_SECONDS = 3
# What is not indexed by then is left to retention: the migration before an upgrade has four minutes
# in all.
INDEX_SECONDS = 60


class Migrated(NamedTuple):
    """The schema's revision; `newer` when a later release has made it."""

    revision: str
    newer: bool

    def summary(self, address: str) -> str:
        """What `fraudops migrate` prints about the database at that address."""
        if self.newer:
            return (
                f"the audit database at {address} has the schema of a newer release "
                f"({self.revision}); it stays, and this release works on it"
            )
        return f"the audit database at {address} has this release's schema"


def migrate(url: str) -> Migrated:
    """Bring the database to this release's schema, with the partitions of today and tomorrow.

    Raises StoreDownError.
    """
    return asyncio.run(upgrade(url))


async def upgrade(url: str) -> Migrated:
    """Bring the schema to this release's revision, with the partitions of today and tomorrow.

    It is one transaction under an advisory lock. A newer schema stays as it is: migrations only
    expand, so that this release works on it too.

    Then days that lack an index get it, without a lock and as far as they come in a minute: what
    is left makes reading slow, never wrong.

    Raises StoreDownError, also when another migrates for 20 s or a table is in use for 3 s
    (nothing has changed then).
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
                    await ensure_partition(raw, day)
        try:
            await _index(url)
        except TROUBLE as error:
            logger.warning(
                "days without an index are left to retention",
                extra={"reason": type(error).__name__},
            )
        return migrated
    finally:
        await engine.dispose()


async def _index(url: str) -> None:
    async with open_connection(url, "fraudops-migrate") as connection:
        await index_days(connection, INDEX_SECONDS)


def _upgrade(connection: Connection) -> Migrated:
    config = Config()
    config.set_main_option("script_location", str(resources.files("fraudops.audit.migrations")))
    script = ScriptDirectory.from_config(config)

    head = str(script.get_current_head())
    options = {"version_table": VERSION_TABLE}
    found = MigrationContext.configure(connection, opts=options).get_current_revision()
    # Revisions are numbers of four digits, so that they sort by age.
    if found and found > head:
        return Migrated(found, newer=True)

    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(config, script, fn=steps, destination_rev="head") as environment:
        environment.configure(connection=connection, version_table=VERSION_TABLE)
        environment.run_migrations()
    return Migrated(head, newer=False)
