"""Prepare the databases for this release: roles, databases and tables.

The tables are those of MLflow and of the audit. The chart runs this program, and it is safe to
repeat. DATABASE_ADMIN_URL names a role that may create roles and databases. Without it the program
prints the SQL and waits until a database team has run it.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg
import click

from fraudops.audit.connection import address, dsn, open_connection, sqlstate, why_away
from fraudops.errors import SettingsError, StoreDownError
from jobs.runner import notices, retry_until, run, wait_option

PROGRAM = "fraudops-prepare"
MLFLOW_LOCK = 7_205_103
SCRAM_ITERATIONS = 4096
# SQLSTATE classes of a role or database that does not exist, and of a wrong password.
MISSING = ("28", "3D")
ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


@dataclass(frozen=True)
class DatabaseTarget:
    """A database and the role that owns it."""

    url: str
    role: str
    password: str
    database: str

    @classmethod
    def of(cls, url: str, name: str = "DATABASE_URL") -> "DatabaseTarget":
        """Parse a URL; `name` is its variable. Raises SettingsError without role or database."""
        parts = urlsplit(dsn(url, name))
        role, database = unquote(parts.username or ""), unquote(parts.path.removeprefix("/"))
        if not role or not database:
            raise SettingsError(
                f"the URL of {address(url)} must name a role and a database: "
                "postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE"
            )
        return cls(url, role, unquote(parts.password or ""), database)


def scram(password: str, salt: bytes) -> str:
    """Return PostgreSQL's verifier of a password (RFC 5802, section 3).

    With a verifier the password itself is in no statement and in no log of the server.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (
        base64.b64encode(part).decode() for part in (salt, stored_key, server_key)
    )
    return f"SCRAM-SHA-256${SCRAM_ITERATIONS}:{salt_text}${stored_text}:{server_text}"


def quoted(name: str) -> str:
    """Return the name as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def statements(
    target: DatabaseTarget, verifier: str, *, role_exists: bool, database_exists: bool
) -> list[str]:
    """Return the SQL that creates role and database, in order.

    An existing role gets the password of the URL.
    """
    role, database = quoted(target.role), quoted(target.database)
    sql = [f"{'ALTER' if role_exists else 'CREATE'} ROLE {role} LOGIN PASSWORD '{verifier}'"]
    if not database_exists:
        sql += [
            # An administrator that is no superuser must be a member of the role to make it owner.
            f"GRANT {role} TO CURRENT_USER",
            f"CREATE DATABASE {database} OWNER {role}",
            f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        ]
    return sql


async def can_log_in(target: DatabaseTarget) -> bool:
    """Return whether the role can log in; False if role, password or database does not fit.

    Raises StoreDownError if PostgreSQL fails for another reason.
    """
    try:
        async with open_connection(target.url, PROGRAM):
            return True
    except ERRORS as error:
        if sqlstate(error).startswith(MISSING):
            return False
        reason = why_away(error) or f"fails ({type(error).__name__})"
        raise StoreDownError(f"PostgreSQL at {address(target.url)} {reason}") from error


async def create(target: DatabaseTarget, admin_url: str) -> None:
    """Create role and database with the administrator's rights. Raises StoreDownError."""
    try:
        async with open_connection(admin_url, PROGRAM) as admin:
            roles = await admin.fetchval(
                "SELECT count(*) FROM pg_roles WHERE rolname = $1", target.role
            )
            databases = await admin.fetchval(
                "SELECT count(*) FROM pg_database WHERE datname = $1", target.database
            )
            verifier = scram(target.password, secrets.token_bytes(16))
            # One by one and not in a transaction, where CREATE DATABASE is not allowed.
            for statement in statements(
                target, verifier, role_exists=bool(roles), database_exists=bool(databases)
            ):
                await admin.execute(statement)
    except ERRORS as error:
        reason = why_away(error) or (
            f"refuses to create role {target.role} and database {target.database} "
            f"(SQLSTATE {sqlstate(error)})"
        )
        raise StoreDownError(f"PostgreSQL at {address(admin_url)} {reason}") from error
    notices.print(f"role {target.role} and database {target.database} created", markup=False)


def instructions(target: DatabaseTarget) -> str:
    """Return the SQL for a database team, with a placeholder for the password."""
    sql = statements(target, "…", role_exists=False, database_exists=False)
    # A team with a superuser does not need the GRANT.
    lines = "\n".join(f"  {line};" for line in sql if not line.startswith("GRANT"))
    lines = lines.replace("'…'", "'(the password in the url)'")
    return (
        f"role {target.role} cannot log in at {address(target.url)}; run this SQL as an "
        f"administrator, this program waits for it:\n{lines}"
    )


async def prepare(target: DatabaseTarget, admin_url: str | None) -> None:
    """Make one attempt to prepare a database. Raises StoreDownError if the role cannot log in."""
    if await can_log_in(target):
        return
    if not admin_url:
        raise StoreDownError(instructions(target))
    await create(target, admin_url)
    if not await can_log_in(target):
        raise StoreDownError(
            f"role {target.role} still cannot log in at {address(target.url)}: check pg_hba.conf"
        )


def _run_prepare(target: DatabaseTarget, admin_url: str | None) -> None:
    asyncio.run(prepare(target, admin_url))


async def has_mlflow_tables(connection: Any) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL"))


async def upgrade_mlflow(url: str) -> None:
    """Run MLflow's own upgrade of its tables, if the tables exist."""
    async with open_connection(url, PROGRAM) as connection:
        if not await has_mlflow_tables(connection):
            notices.print("MLflow's database is empty: its server creates the tables")
            return
        # MLflow's migrations do not exclude each other. The lock ends with this connection.
        await connection.execute("SELECT pg_advisory_lock($1)", MLFLOW_LOCK)
        await asyncio.to_thread(_run_upgrade, url)
    notices.print("MLflow's tables match this release")


def _run_upgrade(url: str) -> None:
    from mlflow.store.db.utils import _upgrade_db
    from sqlalchemy import create_engine

    engine = create_engine(dsn(url).replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        _upgrade_db(engine)
    finally:
        engine.dispose()


def prepare_databases(
    url: str, mlflow_url: str | None, admin_url: str | None, deadline: float
) -> None:
    """Prepare all databases, with retries until the deadline.

    Raises SettingsError for a malformed URL, StoreDownError when the deadline has passed.
    """
    from fraudops.audit.migrations import migrate

    named = {"DATABASE_URL": url, "MLFLOW_BACKEND_STORE_URI": mlflow_url}
    if admin_url:
        # A malformed URL must fail here, with its own name and before any wait.
        dsn(admin_url, "DATABASE_ADMIN_URL")
    for target in [DatabaseTarget.of(each, name) for name, each in named.items() if each]:
        retry_until(partial(_run_prepare, target, admin_url), deadline)
        notices.print(f"role {target.role} can log in at {address(target.url)}", markup=False)
    if mlflow_url:
        asyncio.run(upgrade_mlflow(mlflow_url))
    migrated = retry_until(lambda: migrate(url), deadline)
    notices.print(migrated.summary(address(url)), markup=False)


@click.command(name="prepare-databases")
@wait_option(60.0, "How long to wait for PostgreSQL.")
@click.option(
    "--if-set-up",
    is_flag=True,
    help="Exit with 0 if DATABASE_URL is not set: the setup Job has not created the Secret yet.",
)
def command(wait_seconds: float, if_set_up: bool) -> None:
    """Prepare roles, databases and tables, or print the SQL that is needed."""
    url = os.environ.get("DATABASE_URL")
    if url:
        mlflow_url = os.environ.get("MLFLOW_BACKEND_STORE_URI")
        admin_url = os.environ.get("DATABASE_ADMIN_URL")
        prepare_databases(url, mlflow_url, admin_url, time.monotonic() + wait_seconds)
    elif if_set_up:
        notices.print("there is no database Secret yet: nothing to migrate before this upgrade")
    else:
        raise SettingsError("DATABASE_URL is not set: give the URL of the audit database")


if __name__ == "__main__":
    run(command)
