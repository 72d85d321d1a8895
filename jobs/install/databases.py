"""Makes the databases right for this release: roles and databases where it may (else it prints the
SQL), MLflow's own upgrade, the audit's tables.

Run by the chart. DATABASE_ADMIN_URL names a role that may create roles and databases; without it
somebody else runs the SQL, and this waits for that. Safe to run again.
"""

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import asyncpg
import click

from fraudops.audit.connection import address, connect, dsn, sqlstate, why_away
from fraudops.errors import SettingsError, StoreDownError
from jobs.runner import notices, run

PAUSE_SECONDS = 2.0
MLFLOW_LOCK = 7_205_103
SCRAM_ROUNDS = 4096
# SQLSTATEs of a role or database that is not there, or of another password.
MISSING = ("28", "3D")
Result = TypeVar("Result")


@dataclass(frozen=True)
class DatabaseTarget:
    """One database with the role that owns it."""

    url: str
    role: str
    password: str
    database: str

    @classmethod
    def of(cls, url: str, name: str = "DATABASE_URL") -> "DatabaseTarget":
        """Raises SettingsError when the url names no role or no database."""
        parts = urlsplit(dsn(url, name))
        role, database = unquote(parts.username or ""), unquote(parts.path.removeprefix("/"))
        if not role or not database:
            raise SettingsError(
                f"the url of {address(url)} must name a role and a database: postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE"
            )
        return cls(url, role, unquote(parts.password or ""), database)


def scram(password: str, salt: bytes) -> str:
    """PostgreSQL's verifier of a password (RFC 5802), so that the password itself is in no
    statement and no log.
    """
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, SCRAM_ROUNDS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = [
        base64.b64encode(part).decode()
        for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))
    ]
    return f"SCRAM-SHA-256${SCRAM_ROUNDS}:{parts[0]}${parts[1]}:{parts[2]}"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def statements(
    target: DatabaseTarget, verifier: str, *, role_exists: bool, database_exists: bool
) -> list[str]:
    """The SQL that makes role and database right, in order.

    A role that exists gets the password of the url.
    """
    role, database = quoted(target.role), quoted(target.database)
    sql = [f"{'ALTER' if role_exists else 'CREATE'} ROLE {role} LOGIN PASSWORD '{verifier}'"]
    if not database_exists:
        # Who is no superuser must be a member of the role to give it a database.
        sql += [
            f"GRANT {role} TO CURRENT_USER",
            f"CREATE DATABASE {database} OWNER {role}",
            f"REVOKE ALL ON DATABASE {database} FROM PUBLIC",
        ]
    return sql


async def try_to_enter(target: DatabaseTarget) -> str | None:
    """None if the role can log in; "missing" if it, its password or its database is not there.

    Raises StoreDownError.
    """
    try:
        connection = await connect(target.url, "fraudops-prepare")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        if sqlstate(error).startswith(MISSING):
            return "missing"
        raise StoreDownError(
            f"PostgreSQL at {address(target.url)} {why_away(error) or f'fails ({type(error).__name__})'}"
        ) from error
    await connection.close()
    return None


async def create(target: DatabaseTarget, admin_url: str) -> None:
    """Raises StoreDownError."""
    try:
        admin = await connect(admin_url, "fraudops-prepare")
        try:
            roles = await admin.fetchval(
                "SELECT count(*) FROM pg_roles WHERE rolname = $1", target.role
            )
            databases = await admin.fetchval(
                "SELECT count(*) FROM pg_database WHERE datname = $1", target.database
            )
            verifier = scram(target.password, secrets.token_bytes(16))
            for statement in statements(
                target, verifier, role_exists=bool(roles), database_exists=bool(databases)
            ):
                await admin.execute(statement)
        finally:
            await admin.close()
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        reason = (
            why_away(error)
            or f"refuses to make role {target.role} and database {target.database} (SQLSTATE {sqlstate(error)})"
        )
        raise StoreDownError(f"PostgreSQL at {address(admin_url)} {reason}") from error
    notices.print(f"role {target.role} and database {target.database} made", markup=False)


def instructions(target: DatabaseTarget) -> str:
    """What a database team runs, with the password left for them to fill in."""
    sql = statements(target, "…", role_exists=False, database_exists=False)
    lines = "\n".join(f"  {line};" for line in sql if not line.startswith("GRANT")).replace(
        "'…'", "'(the password in the url)'"
    )
    return f"role {target.role} cannot enter {address(target.url)}; have it made, this waits for it:\n{lines}"


async def prepare(target: DatabaseTarget, admin_url: str | None) -> None:
    """One attempt. Raises StoreDownError while the role cannot enter."""
    if await try_to_enter(target) is None:
        return
    if not admin_url:
        raise StoreDownError(instructions(target))
    await create(target, admin_url)
    if await try_to_enter(target):
        raise StoreDownError(
            f"role {target.role} still cannot enter {address(target.url)}: check pg_hba.conf"
        )


async def has_mlflow_tables(connection: Any) -> bool:
    return bool(await connection.fetchval("SELECT to_regclass('alembic_version') IS NOT NULL"))


async def upgrade_mlflow(url: str) -> None:
    """MLflow's own upgrade of its tables, under an advisory lock.

    Where there are none yet the server makes them when it starts.
    """
    connection = await connect(url, "fraudops-prepare")
    try:
        if not await has_mlflow_tables(connection):
            notices.print("MLflow's database is empty: the server makes its tables")
            return
        await connection.execute("SELECT pg_advisory_lock($1)", MLFLOW_LOCK)
        await asyncio.to_thread(_run_upgrade, url)
    finally:
        await connection.close()
    notices.print("MLflow's tables are those of this release")


def _run_upgrade(url: str) -> None:
    from mlflow.store.db.utils import _upgrade_db
    from sqlalchemy import create_engine

    engine = create_engine(dsn(url).replace("postgresql://", "postgresql+psycopg://", 1))
    try:
        _upgrade_db(engine)
    finally:
        engine.dispose()


def patiently(attempt: Callable[[], Result], deadline: float) -> Result:
    """Try until the deadline, printing each new reason once. Raises the last StoreDownError."""
    said = ""
    while True:
        try:
            return attempt()
        except StoreDownError as error:
            if time.monotonic() + PAUSE_SECONDS > deadline:
                raise
            if str(error) != said:
                notices.print(f"waiting: {error}", markup=False)
                said = str(error)
            time.sleep(PAUSE_SECONDS)


def make_right(url: str, mlflow_url: str | None, admin_url: str | None, deadline: float) -> None:
    """Raises StoreDownError, SettingsError."""
    from fraudops.audit.migrations import migrate

    named = {"DATABASE_URL": url, "MLFLOW_BACKEND_STORE_URI": mlflow_url}
    if admin_url:
        dsn(admin_url, "DATABASE_ADMIN_URL")
    for target in [DatabaseTarget.of(each, name) for name, each in named.items() if each]:
        patiently(lambda target=target: asyncio.run(prepare(target, admin_url)), deadline)  # type: ignore[misc]
        notices.print(f"role {target.role} can enter {address(target.url)}", markup=False)
    if mlflow_url:
        asyncio.run(upgrade_mlflow(mlflow_url))
    migrated = patiently(lambda: migrate(url), deadline)
    notices.print(migrated.summary(address(url)), markup=False)


@click.command(name="prepare-databases")
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for PostgreSQL.",
)
@click.option(
    "--if-set-up",
    is_flag=True,
    help="End at once, well, where DATABASE_URL is not set: the install has never got that far.",
)
def command(wait_seconds: float, if_set_up: bool) -> None:
    """Make roles, databases and tables right, or say how."""
    url = os.environ.get("DATABASE_URL")
    if url:
        mlflow_url = os.environ.get("MLFLOW_BACKEND_STORE_URI")
        admin_url = os.environ.get("DATABASE_ADMIN_URL")
        make_right(url, mlflow_url, admin_url, time.monotonic() + wait_seconds)
    elif if_set_up:
        notices.print("there is no database Secret yet: nothing to migrate before this upgrade")
    else:
        raise SettingsError("DATABASE_URL is not set")


if __name__ == "__main__":
    run(command)
