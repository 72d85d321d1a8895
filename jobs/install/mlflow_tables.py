"""MLflow's own upgrade of its tables in PostgreSQL."""

import asyncio

from fraudops.audit.connection import open_connection
from fraudops.audit.database import translated
from fraudops.audit.locking import advisory_lock
from fraudops.database_url import address, read_database_url
from fraudops.errors import SettingsError
from jobs.runner import notices

PROGRAM = "fraudops-prepare"
VARIABLE = "MLFLOW_BACKEND_STORE_URI"
LOCK = 7_205_103
HAS_TABLES = "SELECT to_regclass('alembic_version') IS NOT NULL"


def upgrade(url: str) -> None:
    """Upgrade the tables to the MLflow of this release, if they exist.

    Raises StoreDownError, and SettingsError if a newer MLflow wrote the tables.
    """
    with translated(url, VARIABLE, "refuses the upgrade of MLflow's tables"):
        found = asyncio.run(_upgrade_alone(url))
    notices.print(
        "MLflow's tables match this release"
        if found
        else "MLflow's database is empty: its server creates the tables"
    )


async def _upgrade_alone(url: str) -> bool:
    """Upgrade the tables while no other process does; return False if there are none."""
    async with open_connection(url, PROGRAM, VARIABLE) as connection:
        if not await connection.fetchval(HAS_TABLES):
            return False
    # MLflow's migrations do not exclude each other.
    async with advisory_lock(url, LOCK, PROGRAM, wait=True, variable=VARIABLE):
        await asyncio.to_thread(_run_upgrade, url)
    return True


def _run_upgrade(url: str) -> None:
    import psycopg
    from alembic.util import CommandError
    from mlflow.store.db.utils import _upgrade_db
    from sqlalchemy import create_engine

    database = read_database_url(url, VARIABLE)
    # Alembic's configuration holds the engine's URL, so it has no password.
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(**database.for_psycopg())
    )
    try:
        _upgrade_db(engine)
    except CommandError as error:
        raise SettingsError(
            f"MLflow's tables at {address(url)} have a revision that this release does not know: "
            "run the newer release that upgraded them, or restore a backup"
        ) from error
    finally:
        engine.dispose()
