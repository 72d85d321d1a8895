"""The preparation of roles, databases and tables on a real PostgreSQL."""

import asyncio
import base64
import itertools
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from alembic.script import ScriptDirectory
from psycopg import sql

from fraudops.errors import SettingsError, StoreDownError
from jobs.install import mlflow_tables
from jobs.install.databases import (
    DatabaseTarget,
    can_log_in,
    command,
    instructions,
    prepare,
    quoted,
    scram,
)
from services.mlflow.wait import fault
from services.supervisor.postgresql import PostgreSQL
from tests.support.commands import CommandResult, bare_environment, call
from tests.support.fault_proxy import FaultProxy, Trap
from tests.support.processes import free_port
from tests.support.waiting import eventually
from tests.support.warm_start import start_python

PASSWORD = "p@ss/word'\"%40"
_numbers = itertools.count()


@pytest.fixture
def target(postgresql_server: PostgreSQL) -> Iterator[DatabaseTarget]:
    """Yield a role and a database that do not exist yet, with names that need quoting."""
    name = f"own-{next(_numbers)}"
    parts = urlsplit(postgresql_server.admin_url())
    url = f"postgresql://{name}:p%40ss%2Fword'%22%2540@{parts.hostname}:{parts.port}/{name}"
    yield DatabaseTarget.of(url)

    def drop() -> None:
        with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
            admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )
            admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))

    # PostgreSQL finishes a CREATE DATABASE whose client has gone. One try may come too early.
    eventually(drop)


PUBLIC_MAY_CONNECT = """
SELECT EXISTS (
    SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) WHERE grantee = 0
)
FROM pg_database WHERE datname = current_database()
"""
# Owner, whether PUBLIC has a right, revision of the tables, number of partitions.
PREPARED = f"""
SELECT pg_get_userbyid(datdba)::text, ({PUBLIC_MAY_CONNECT}), version_num,
       (SELECT count(*) FROM pg_inherits WHERE inhparent = 'predictions'::regclass)
FROM pg_database, fraudops_schema_version WHERE datname = current_database()
"""
MIGRATIONS = Path(str(resources.files("fraudops.audit.migrations")))


def through(proxy: FaultProxy, url: str) -> str:
    """Return the URL with the port of the proxy."""
    parts = urlsplit(url)
    user = parts.netloc.rpartition("@")[0]
    return parts._replace(netloc=f"{user}@{parts.hostname}:{proxy.port}").geturl()


def run(*options: str, **variables: str) -> CommandResult:
    environment = bare_environment() | variables
    return call("prepare-databases", command, *(options or ("--wait", "0")), **environment)


def run_as_a_program(**variables: str) -> "subprocess.CompletedProcess[str]":
    """Run the program as the chart starts it."""
    return subprocess.run(
        [sys.executable, "-m", "jobs.install.databases", "--wait", "0"],
        env=bare_environment() | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_url_is_parsed_with_its_escapes(target: DatabaseTarget) -> None:
    assert (target.role, target.database, target.password) == (
        target.database,
        target.role,
        PASSWORD,
    )
    with pytest.raises(SettingsError, match="must name a role and a database"):
        DatabaseTarget.of("postgresql://db.example.com:5432/")


async def test_role_and_database_are_made_once_and_the_role_owns_the_database(
    postgresql_server: PostgreSQL, target: DatabaseTarget
) -> None:
    admin = postgresql_server.admin_url()
    assert await can_log_in(target) is False
    await prepare(target, admin)
    assert await can_log_in(target) is True
    await prepare(target, admin)
    with psycopg.connect(admin) as connection:
        owner = connection.execute(
            "SELECT rolname, datacl::text FROM pg_database"
            " JOIN pg_roles ON datdba = pg_roles.oid WHERE datname = %s",
            [target.database],
        ).fetchone()
    assert owner is not None
    assert owner[0] == target.role
    assert "=Tc/" not in owner[1].replace(f'"\\"{target.role}\\"', ""), "PUBLIC may connect"


async def test_a_role_with_another_password_gets_the_one_of_the_url(
    postgresql_server: PostgreSQL, target: DatabaseTarget
) -> None:
    await prepare(target, postgresql_server.admin_url())
    with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
        admin.execute(f"ALTER ROLE {quoted(target.role)} PASSWORD 'another'")
    assert await can_log_in(target) is False
    await prepare(target, postgresql_server.admin_url())
    assert await can_log_in(target) is True


async def test_without_an_admin_the_sql_is_printed_and_no_password(target: DatabaseTarget) -> None:
    with pytest.raises(StoreDownError) as refusal:
        await prepare(target, None)
    assert f'CREATE DATABASE "{target.database}" OWNER "{target.role}";' in str(refusal.value)
    assert PASSWORD not in str(refusal.value)
    assert "SCRAM" not in instructions(target)


def test_the_scram_verifier_is_the_one_that_postgresql_makes(postgresql_server: PostgreSQL) -> None:
    with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
        # The tests' server has another number of iterations than PostgreSQL's own.
        admin.execute(
            "SELECT set_config(name, boot_val, false) FROM pg_settings"
            " WHERE name = 'scram_iterations'"
        )
        admin.execute("CREATE ROLE scram_probe PASSWORD 'correct horse'")
        stored = admin.execute(
            "SELECT rolpassword FROM pg_authid WHERE rolname = 'scram_probe'"
        ).fetchone()
        admin.execute("DROP ROLE scram_probe")
    assert stored is not None
    salt = base64.b64decode(stored[0].split(":")[1].split("$")[0])
    assert scram("correct horse", salt) == stored[0]


def test_the_program_migrates_both_databases_to_this_release(
    postgresql_server: PostgreSQL, target: DatabaseTarget
) -> None:
    variables = {
        "DATABASE_URL": target.url,
        "DATABASE_ADMIN_URL": postgresql_server.admin_url(),
        "MLFLOW_BACKEND_STORE_URI": target.url,
    }
    first, second = run_as_a_program(**variables), run(**variables)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert f"role {target.role} and database {target.database} created" in first.stderr
    assert "created" not in second.stderr
    assert "MLflow's database is empty: its server creates the tables" in first.stderr
    assert PASSWORD not in first.stderr + second.stderr
    with psycopg.connect(target.url) as connection:
        assert connection.execute("SELECT to_regclass('predictions') IS NOT NULL").fetchone() == (
            True,
        )


# The first bytes of each statement, in the order of a first run.
STEPS = (
    b"CREATE ROLE",
    b"GRANT ",
    b"CREATE DATABASE",
    b"REVOKE ALL",
    b"CREATE TABLE fraudops_schema_version",
    b"CREATE TABLE labels",
    b"ALTER TABLE promotions",
    b"ALTER TABLE predictions ATTACH",
)


@pytest.mark.parametrize("step", STEPS, ids=bytes.decode)
def test_a_run_finishes_what_a_run_killed_before_any_step_has_left(
    postgresql_server: PostgreSQL, target: DatabaseTarget, step: bytes, tmp_path: Path
) -> None:
    with FaultProxy(postgresql_server.port).running() as proxy:
        variables = {
            "DATABASE_URL": through(proxy, target.url),
            "DATABASE_ADMIN_URL": through(proxy, postgresql_server.admin_url()),
        }
        # Only the first byte of the statement arrives, so PostgreSQL does not run it.
        trap = proxy.set(Trap(step, "hold", more=1))
        with (tmp_path / "log").open("wb") as log:
            environment = bare_environment() | variables
            killed = start_python(["-m", "jobs.install.databases"], environment, log)
        try:
            assert trap.sprung.wait(60), "the program did not reach this step"
        finally:
            killed.kill()
            killed.wait(20)
        # PostgreSQL ends the session of a killed program, and with it the transaction.
        proxy.reset()
        done = run(**variables)
        assert done.returncode == 0, done.stderr
        again = run(**variables)
    assert (again.returncode, "created" in again.stderr, "closed" in again.stderr) == (0, 0, 0)
    with psycopg.connect(target.url) as connection:
        found = connection.execute(PREPARED).fetchone()
    assert found == (target.role, False, ScriptDirectory(str(MIGRATIONS)).get_current_head(), 2)


async def test_only_an_owner_with_an_administrator_takes_the_rights_of_public(
    postgresql_server: PostgreSQL, target: DatabaseTarget
) -> None:
    """A database team decides about a database of its own."""
    admin = postgresql_server.admin_url()
    await prepare(target, admin)

    def public_may_connect(statement: str) -> bool:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(statement.format(quoted(target.database)))
        asyncio.run(prepare(target, None if "GRANT" in statement else admin))
        with psycopg.connect(target.url) as connection:
            found = connection.execute(PUBLIC_MAY_CONNECT).fetchone()
        return bool(found and found[0])

    assert await asyncio.to_thread(public_may_connect, "GRANT CONNECT ON DATABASE {} TO PUBLIC")
    assert await asyncio.to_thread(public_may_connect, "ALTER DATABASE {} OWNER TO postgres")
    back = f"ALTER DATABASE {{}} OWNER TO {quoted(target.role)}"
    assert not await asyncio.to_thread(public_may_connect, back)


def test_an_unavailable_postgresql_ends_the_program_with_75(target: DatabaseTarget) -> None:
    done = run(DATABASE_URL=f"postgresql://a:b@127.0.0.1:{free_port()}/c")
    assert done.returncode == 75
    assert "does not answer (ConnectionRefusedError)" in done.stderr


# Points at which the network breaks: the first look, the creation, MLflow's tables, the migration.
BREAKS = (
    b"FROM pg_roles",
    b"CREATE DATABASE",
    b"aclexplode",
    b"to_regclass('alembic",
    b"CREATE TABLE labels",
)


@pytest.mark.parametrize("words", BREAKS, ids=bytes.decode)
def test_a_connection_that_breaks_ends_the_program_with_75_and_one_sentence(
    postgresql_server: PostgreSQL, target: DatabaseTarget, words: bytes
) -> None:
    with FaultProxy(postgresql_server.port).running() as proxy:
        proxy.set(Trap(words, "cut"))
        url = through(proxy, target.url)
        done = run(
            DATABASE_URL=url,
            MLFLOW_BACKEND_STORE_URI=url,
            DATABASE_ADMIN_URL=through(proxy, postgresql_server.admin_url()),
        )
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr
    assert f"error: PostgreSQL at 127.0.0.1:{proxy.port}/" in done.stderr


def test_a_right_that_the_role_lacks_is_a_sentence_with_its_setting(
    postgresql_server: PostgreSQL, target: DatabaseTarget
) -> None:
    """Since PostgreSQL 15 only the owner of a database may create tables in it."""
    name = quoted(target.role)
    with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{scram(PASSWORD, b'salt')}'")
        admin.execute(f"CREATE DATABASE {name}")
    done = run(DATABASE_URL=target.url)
    assert done.returncode == 75
    assert "Traceback" not in done.stderr
    assert "refuses a right that the role in DATABASE_URL needs" in done.stderr


def test_an_admin_url_whose_file_does_not_exist_is_no_admin_url(database: str) -> None:
    done = run(DATABASE_URL=database, DATABASE_ADMIN_URL="file:/nowhere/admin-url")
    assert done.returncode == 0, done.stderr


def test_mlflows_upgrade_without_postgresql_names_its_setting() -> None:
    away = f"postgresql://a:b@127.0.0.1:{free_port()}/c"
    with pytest.raises(StoreDownError, match="is MLFLOW_BACKEND_STORE_URI right"):
        mlflow_tables.upgrade(away)


def test_a_file_of_another_url_is_reported_with_the_setting_of_that_url(database: str) -> None:
    away = f"postgresql://nobody:b@127.0.0.1:{urlsplit(database).port}/c"
    url = f"{database}?sslmode=verify-full&sslrootcert=/nowhere/ca.crt"
    with pytest.raises(SettingsError, match="sslrootcert in MLFLOW_BACKEND_STORE_URI cannot"):
        mlflow_tables.upgrade(url)
    with pytest.raises(SettingsError, match="sslrootcert in DATABASE_ADMIN_URL cannot"):
        asyncio.run(prepare(DatabaseTarget.of(away), url))


@pytest.mark.parametrize("url", [{}, {"DATABASE_URL": "file:/nowhere/url"}])
def test_an_upgrade_of_an_install_without_secrets_has_nothing_to_migrate(
    url: dict[str, str],
) -> None:
    before_upgrade = run("--if-set-up", **url)
    assert before_upgrade.returncode == 0
    assert "nothing to migrate" in before_upgrade.stderr
    assert run("--wait", "60", **url).returncode == 64


def test_mlflows_own_upgrade_runs_if_its_tables_exist(
    postgresql_server: PostgreSQL, database_with_mlflow: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mlflow_tables.upgrade(database_with_mlflow)
    assert "MLflow's tables match this release" in capsys.readouterr().err
    with FaultProxy(postgresql_server.port).running() as proxy:
        # A query of the upgrade itself, by another driver.
        proxy.set(Trap(b"alembic_version.version_num", "cut"))
        with pytest.raises(StoreDownError, match=r"refuses the upgrade|does not answer"):
            mlflow_tables.upgrade(through(proxy, database_with_mlflow))
    with psycopg.connect(database_with_mlflow) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'unknown'")
    with pytest.raises(SettingsError, match="run the newer release that upgraded them"):
        mlflow_tables.upgrade(database_with_mlflow)


def test_the_mlflow_server_waits_until_its_role_can_enter(
    postgresql_server: PostgreSQL, database: str
) -> None:
    assert fault(database) is None
    port = urlsplit(postgresql_server.admin_url()).port
    refused = fault(f"postgresql://nobody:secret-word@127.0.0.1:{port}/nothing")
    assert refused is not None
    assert "nothing" in refused
    assert "secret-word" not in refused
    away = fault(f"postgresql://a:b@127.0.0.1:{free_port()}/c")
    assert away is not None
    assert "refused" in away
