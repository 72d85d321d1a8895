"""Tables of MLflow in PostgreSQL: as the installed MLflow makes them, and as a newer one leaves."""

import subprocess
import sys
from collections.abc import Mapping

import psycopg
from sqlalchemy import create_engine

from fraudops.mlflow_schema import declare

MAKE_TABLES = """
import sys
from mlflow.store.db.utils import _initialize_tables
from sqlalchemy import create_engine
_initialize_tables(create_engine(sys.argv[1]))
"""
NEWER = "0123456789ab"


def make_tables(url: str) -> None:
    """Create the tables of the installed MLflow."""
    command = [sys.executable, "-c", MAKE_TABLES, _for_sqlalchemy(url)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def make_newer(url: str) -> None:
    """Change the tables as most upgrades of MLflow do: a new table and a new column."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE of_newer_mlflow (id int PRIMARY KEY)")
        connection.execute("ALTER TABLE runs ADD COLUMN of_newer_mlflow text")
        connection.execute("UPDATE alembic_version SET version_num = %s", [NEWER])


def allow(url: str, serves: Mapping[str, tuple[str, ...]]) -> None:
    """Declare, as the migration of a release with these SERVES does after its upgrade."""
    engine = create_engine(_for_sqlalchemy(url))
    try:
        with engine.begin() as connection:
            declare(connection, serves)
    finally:
        engine.dispose()


def _for_sqlalchemy(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
