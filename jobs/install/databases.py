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

import click

from fraudops.audit.connection import TROUBLE, open_connection, sqlstate
from fraudops.audit.database import translated
from fraudops.database_url import address, given, read_database_url
from fraudops.errors import SettingsError, StoreDownError
from jobs.install import mlflow_tables
from jobs.runner import notices, retry_until, run, wait_option

PROGRAM = "fraudops-prepare"
SCRAM_ITERATIONS = 4096
# SQLSTATE classes of a role or database that does not exist, and of a wrong password.
MISSING = ("28", "3D")
ADMIN_VARIABLE = "DATABASE_ADMIN_URL"
PUBLIC_RIGHTS = """
SELECT pg_get_userbyid(datdba) = current_user AS owned, EXISTS (
    SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0
) AS open
FROM pg_database WHERE datname = current_database()
"""


@dataclass(frozen=True)
class DatabaseTarget:
    """A database and the role that owns it; `variable` is the setting that holds the URL."""

    url: str
    role: str
    password: str
    database: str
    variable: str

    @classmethod
    def of(cls, url: str, name: str = "DATABASE_URL") -> "DatabaseTarget":
        """Parse a URL; `name` is its variable. Raises SettingsError without role or database."""
        parts = read_database_url(url, name)
        if not parts.user or not parts.database:
            raise SettingsError(
                f"the URL of {address(url)} must name a role and a database: "
                "postgresql://ROLE:PASSWORD@HOST:PORT/DATABASE"
            )
        return cls(url, parts.user, parts.read_password(), parts.database, name)


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

    An existing role gets the password of the URL. `close_to_public` comes afterwards.
    """
    role, database = quoted(target.role), quoted(target.database)
    sql = [f"{'ALTER' if role_exists else 'CREATE'} ROLE {role} LOGIN PASSWORD '{verifier}'"]
    if not database_exists:
        sql += [
            # An administrator that is no superuser must be a member of the role to make it owner.
            f"GRANT {role} TO CURRENT_USER",
            f"CREATE DATABASE {database} OWNER {role}",
        ]
    return sql


def revocation(target: DatabaseTarget) -> str:
    """Return the SQL after which only roles with a right of their own may connect."""
    return f"REVOKE ALL ON DATABASE {quoted(target.database)} FROM PUBLIC"


async def can_log_in(target: DatabaseTarget) -> bool:
    """Return whether the role can log in; False if role, password or database does not fit.

    Raises StoreDownError if PostgreSQL fails for another reason.
    """
    with translated(target.url, target.variable, "fails"):
        try:
            async with open_connection(target.url, PROGRAM, target.variable):
                return True
        except TROUBLE as error:
            if not sqlstate(error).startswith(MISSING):
                raise
    return False


async def create(target: DatabaseTarget, admin_url: str) -> None:
    """Create role and database with the administrator's rights. Raises StoreDownError."""
    refusal = f"refuses to create role {target.role} and database {target.database}"
    with translated(admin_url, ADMIN_VARIABLE, refusal):
        async with open_connection(admin_url, PROGRAM, ADMIN_VARIABLE) as admin:
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
    notices.print(f"role {target.role} and database {target.database} created", markup=False)


async def close_to_public(target: DatabaseTarget) -> None:
    """Take the rights of PUBLIC on the database, if the role owns it. Raises StoreDownError.

    Every run checks it: an earlier run may have ended right after CREATE DATABASE. The role does
    it itself, because an administrator that is no superuser may not be a member of the role.
    """
    with translated(target.url, target.variable, "refuses to revoke the rights of PUBLIC"):
        async with open_connection(target.url, PROGRAM, target.variable) as connection:
            found = await connection.fetchrow(PUBLIC_RIGHTS)
            if not (found["owned"] and found["open"]):
                return
            await connection.execute(revocation(target))
    notices.print(f"database {target.database} closed to other roles", markup=False)


def instructions(target: DatabaseTarget) -> str:
    """Return the SQL for a database team, with a placeholder for the password."""
    sql = [
        *statements(target, "…", role_exists=False, database_exists=False),
        revocation(target),
    ]
    # A team with a superuser does not need the GRANT.
    lines = "\n".join(f"  {line};" for line in sql if not line.startswith("GRANT"))
    lines = lines.replace("'…'", "'(the password in the url)'")
    return (
        f"role {target.role} cannot log in at {address(target.url)}; run this SQL as an "
        f"administrator, this program waits for it:\n{lines}"
    )


async def prepare(target: DatabaseTarget, admin_url: str | None) -> None:
    """Make one attempt to prepare a database. Raises StoreDownError if the role cannot log in.

    Every step looks at what is there, so that the next run finishes what an interrupted run left.
    Without `admin_url` nothing is changed: a database team decides about roles and rights.
    """
    if not await can_log_in(target):
        if not admin_url:
            raise StoreDownError(instructions(target))
        await create(target, admin_url)
        if not await can_log_in(target):
            raise StoreDownError(
                f"role {target.role} still cannot log in at {address(target.url)}: "
                "check pg_hba.conf"
            )
    if admin_url:
        await close_to_public(target)


def _run_prepare(target: DatabaseTarget, admin_url: str | None) -> None:
    asyncio.run(prepare(target, admin_url))


def _migrate(url: str) -> str:
    from fraudops.audit.migrations import migrate

    with translated(url, refusal="refuses the migration of the audit's tables"):
        return migrate(url).summary(address(url))


def prepare_databases(
    url: str, mlflow_url: str | None, admin_url: str | None, deadline: float
) -> None:
    """Prepare all databases, with retries until the deadline.

    Raises SettingsError for a malformed URL, StoreDownError when the deadline has passed.
    """
    named = {"DATABASE_URL": url, mlflow_tables.VARIABLE: mlflow_url}
    if admin_url:
        # A malformed URL must fail here, with its own name and before any wait.
        read_database_url(admin_url, ADMIN_VARIABLE)
    for target in [DatabaseTarget.of(each, name) for name, each in named.items() if each]:
        retry_until(partial(_run_prepare, target, admin_url), deadline)
        notices.print(f"role {target.role} can log in at {address(target.url)}", markup=False)
    if mlflow_url:
        retry_until(partial(mlflow_tables.upgrade, mlflow_url), deadline)
    notices.print(retry_until(partial(_migrate, url), deadline), markup=False)


@click.command(name="prepare-databases")
@wait_option(60.0, "How long to wait for PostgreSQL.")
@click.option(
    "--if-set-up",
    is_flag=True,
    help="Exit with 0 if DATABASE_URL is not set, or names a file that does not exist: the setup "
    "Job has not created the Secret yet.",
)
def command(wait_seconds: float, if_set_up: bool) -> None:
    """Prepare roles, databases and tables, or print the SQL that is needed."""
    url, mlflow_url = os.environ.get("DATABASE_URL"), os.environ.get(mlflow_tables.VARIABLE)
    if if_set_up:
        url, mlflow_url = given(url), given(mlflow_url)
    if url:
        admin_url = given(os.environ.get(ADMIN_VARIABLE))
        prepare_databases(url, mlflow_url, admin_url, time.monotonic() + wait_seconds)
    elif if_set_up:
        notices.print("there is no database Secret yet: nothing to migrate before this upgrade")
    else:
        raise SettingsError("DATABASE_URL is not set: give the URL of the audit database")


if __name__ == "__main__":
    run(command)
