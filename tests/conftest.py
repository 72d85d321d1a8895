"""Real servers for all tests: PostgreSQL, MLflow, and the whole supervised product.

Each server starts when the first test needs it. All test processes of a run share it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import hypothesis
import psycopg
import pytest
from psycopg import sql

from services.mlflow import server as mlflow_server
from services.supervisor.postgresql import OWNER, PostgreSQL
from services.supervisor.postgresql_standalone import start
from tests.support.commands import Caller
from tests.support.http_client import HTTP
from tests.support.platform import Platform, whole_platform
from tests.support.processes import free_port, lifeline
from tests.support.scheduling import LONGEST, PlatformScheduling
from tests.support.shared_servers import StartedServer, alone, run_folder, shared
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from tests.support.scored import Scene

TEMPLATE, TEMPLATE_WITH_MLFLOW = "fraudops_template", "fraudops_template_with_mlflow"
# A test that is slow because the machine is busy has not found a defect.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> PlatformScheduling | None:
    return PlatformScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # `trylast`: another plugin has put the tests into a random order before. The sort is stable.
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A PostgreSQL server for the tests alone.

    Nothing in it outlives the tests, so it does not wait for the disk. All test processes share
    it: use unique names for databases and roles.
    """

    def begin() -> StartedServer:
        server = PostgreSQL(tmp_path_factory.mktemp("postgresql") / "server", free_port())
        process = start(
            server,
            server.folder.with_name("postgresql.log"),
            fsync="off",
            synchronous_commit="off",
            full_page_writes="off",
            max_connections="120",
            # A password's 4096 rounds would cost both ends of each connection milliseconds.
            scram_iterations="1",
        )
        return StartedServer(process, signal.SIGINT, f"{server.port} {server.folder}")

    with shared(run_folder(tmp_path_factory) / "shared-postgresql", begin) as address:
        port, folder = address.split(" ", 1)
        yield PostgreSQL(Path(folder), int(port))


@pytest.fixture(scope="session")
def postgresql(postgresql_server: PostgreSQL) -> str:
    """The superuser's DSN."""
    return postgresql_server.admin_url()


@pytest.fixture(scope="session")
def _template(postgresql_server: PostgreSQL) -> str:
    """A database with the audit's tables, migrated once. Each test gets a copy of it."""
    return make_template(postgresql_server, TEMPLATE, "template1", migrate_by_a_process)


@pytest.fixture(scope="session")
def _template_with_mlflow(postgresql_server: PostgreSQL, _template: str) -> str:
    """A database with the tables of the audit and of MLflow."""
    from tests.support.mlflow_tables import make_tables

    return make_template(postgresql_server, TEMPLATE_WITH_MLFLOW, _template, make_tables)


def make_template(
    server: PostgreSQL, name: str, source: str, complete: Callable[[str], None]
) -> str:
    """Make a database once for all test processes.

    It is a copy of `source`, and `complete` gets its URL.
    """
    unfinished = f"{name}_unfinished"
    with (
        alone(server.folder / f"{name}.lock"),
        psycopg.connect(server.admin_url(), autocommit=True) as admin,
    ):
        if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
            # A test process that was killed may have left it.
            admin.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(
                    sql.Identifier(unfinished)
                )
            )
            admin.execute(copy_of(source, unfinished))
            complete(server.url(unfinished))
            # The final name appears only when the database is complete.
            admin.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(unfinished), sql.Identifier(name)
                )
            )
    return name


def copy_of(source: str, name: str) -> sql.Composed:
    return sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
        *map(sql.Identifier, (name, source, OWNER))
    )


def migrate_by_a_process(url: str) -> None:
    program = (
        "import os; from fraudops.audit.migrations import migrate;"
        " migrate(os.environ['DATABASE_URL'])"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "DATABASE_URL": url},
        check=True,
        timeout=60,
    )


@pytest.fixture
def database(postgresql_server: PostgreSQL, _template: str) -> Iterator[str]:
    """The `postgresql://` URL of a fresh database with the audit's tables.

    It names the database's owner, who is not a superuser.
    """
    with fresh_database(postgresql_server, _template) as url:
        yield url


@pytest.fixture
def database_with_mlflow(
    postgresql_server: PostgreSQL, _template_with_mlflow: str
) -> Iterator[str]:
    """As `database`, with the tables of the installed MLflow too."""
    with fresh_database(postgresql_server, _template_with_mlflow) as url:
        yield url


@contextmanager
def fresh_database(server: PostgreSQL, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.admin_url(), autocommit=True) as admin:
        admin.execute(copy_of(template, name))
        yield server.url(name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server with an SQLite store.

    All test processes share it and its models outlive a test: use a unique model name.
    """
    with shared(
        run_folder(tmp_path_factory) / "shared-mlflow",
        lambda: start_mlflow(tmp_path_factory.mktemp("mlflow")),
    ) as url:
        yield url


def start_mlflow(folder: Path) -> StartedServer:
    port = free_port()
    settings = mlflow_server.environment(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *mlflow_server.arguments(port)],
            env={**os.environ, **settings},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> None:
        assert server.poll() is None, (folder / "mlflow.log").read_text()
        HTTP.get(
            f"{url}/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}
        ).raise_for_status()

    with lifeline("sh", "-c", f"kill -TERM {server.pid}"):
        eventually(answers)
    return StartedServer(server, signal.SIGTERM, url)


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One running product for all tests: leave it as it was, or start a second one."""
    with whole_platform(tmp_path_factory.mktemp("platform") / "state") as started:
        yield started


# Here and not above: scikit-learn would cost the process that only hands out the tests 3 s.
@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> "Scene":
    from tests.support.scored import make_scene

    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    from jobs.score import command

    return Caller("score", command, monkeypatch, capsys)
