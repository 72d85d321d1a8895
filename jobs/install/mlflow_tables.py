"""MLflow's own upgrade of its tables in PostgreSQL."""

import asyncio

from fraudops.audit.connection import open_connection
from fraudops.audit.database import translated
from fraudops.audit.locking import advisory_lock
from fraudops.database_url import read_database_url
from fraudops.mlflow_schema import belongs_to_newer, declare
from jobs.runner import notices

PROGRAM = "fraudops-prepare"
VARIABLE = "MLFLOW_BACKEND_STORE_URI"
LOCK = 7_205_103
HAS_TABLES = "SELECT to_regclass('alembic_version') IS NOT NULL"


def upgrade(url: str) -> None:
    """Upgrade the tables to the MLflow of this release, if they exist.

    Tables of a newer release stay if that release allows this one. Raises StoreDownError, and
    SettingsError if it does not.
    """
    with translated(url, VARIABLE, "refuses the upgrade of MLflow's tables"):
        notices.print(asyncio.run(_upgrade_alone(url)))


async def _upgrade_alone(url: str) -> str:
    """Upgrade the tables while no other process does; return what was found, in words."""
    async with open_connection(url, PROGRAM, VARIABLE) as connection:
        if not await connection.fetchval(HAS_TABLES):
            return "MLflow's database is empty: its server creates the tables"
    # MLflow's migrations do not exclude each other.
    async with advisory_lock(url, LOCK, PROGRAM, wait=True, variable=VARIABLE):
        upgraded = await asyncio.to_thread(_run_upgrade, url)
    if upgraded:
        return "MLflow's tables match this release"
    return "MLflow's tables are those of a newer release, which allows this one: they stay"


def _run_upgrade(url: str) -> bool:
    """Upgrade the tables, unless they are those of a newer release that allows this one."""
    import psycopg
    from mlflow.store.db.utils import _upgrade_db
    from sqlalchemy import create_engine

    database = read_database_url(url, VARIABLE)
    # Alembic's configuration holds the engine's URL, so it has no password.
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(**database.for_psycopg())
    )
    try:
        with engine.connect() as connection:
            if belongs_to_newer(connection):
                return False
        _upgrade_db(engine)
        with engine.begin() as connection:
            declare(connection)
    finally:
        engine.dispose()
    return True
