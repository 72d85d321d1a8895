"""The preparation of roles, databases and tables on a real PostgreSQL."""

import asyncio
import base64
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from fraudops.errors import SettingsError, StoreDownError
from jobs.install.databases import (
    DatabaseTarget,
    can_log_in,
    instructions,
    prepare,
    quoted,
    scram,
    upgrade_mlflow,
)
from services.mlflow.wait import fault
from services.supervisor.postgresql import PostgreSQL
from tests.support.processes import free_port

PASSWORD = "p@ss/word'\"%40"
_numbers = itertools.count()


@pytest.fixture
def target(postgresql_server: PostgreSQL) -> Iterator[DatabaseTarget]:
    """Yield a role and a database that do not exist yet, with names that need quoting."""
    name = f"own-{next(_numbers)}"
    parts = urlsplit(postgresql_server.admin_url())
    url = f"postgresql://{name}:p%40ss%2Fword'%22%2540@{parts.hostname}:{parts.port}/{name}"
    yield DatabaseTarget.of(url)
    with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
        admin.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def run(**variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp"), **variables}
    command = [sys.executable, "-m", "jobs.install.databases", "--wait", "0"]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, check=False
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
    first, second = run(**variables), run(**variables)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert f"role {target.role} and database {target.database} created" in first.stderr
    assert "created" not in second.stderr
    assert "MLflow's database is empty: its server creates the tables" in first.stderr
    assert PASSWORD not in first.stderr + second.stderr
    with psycopg.connect(target.url) as connection:
        assert connection.execute("SELECT to_regclass('predictions') IS NOT NULL").fetchone() == (
            True,
        )


def test_an_unavailable_postgresql_ends_the_program_with_75(target: DatabaseTarget) -> None:
    done = run(DATABASE_URL=f"postgresql://a:b@127.0.0.1:{free_port()}/c")
    assert done.returncode == 75
    assert "does not answer (ConnectionRefusedError)" in done.stderr


def test_an_upgrade_of_an_install_without_secrets_has_nothing_to_migrate() -> None:
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "jobs.install.databases"]
    before_upgrade = subprocess.run(
        [*command, "--if-set-up"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert before_upgrade.returncode == 0
    assert "nothing to migrate" in before_upgrade.stderr
    assert (
        subprocess.run(
            command, env=environment, capture_output=True, timeout=60, check=False
        ).returncode
        == 64
    )


MAKE_TABLES = """
import sys
from mlflow.store.db.utils import _initialize_tables
from sqlalchemy import create_engine
_initialize_tables(create_engine(sys.argv[1]))
"""


async def test_mlflows_own_upgrade_runs_if_its_tables_exist(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = database.replace("postgresql://", "postgresql+psycopg://", 1)
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", MAKE_TABLES, url],
        check=True,
        capture_output=True,
        timeout=120,
    )
    await upgrade_mlflow(database)
    assert "MLflow's tables match this release" in capsys.readouterr().err


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
