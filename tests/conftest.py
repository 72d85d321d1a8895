"""Real servers, started once a session when the first test asks: PostgreSQL, MLflow, and the whole product under its supervisor."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg import sql

from fraudops import endpoints
from fraudops.state import State
from services.supervisor import mlflow_server
from services.supervisor.postgresql import OWNER, PostgreSQL, start, stop
from tests.support import eventually, free_port, lifeline

TEMPLATE = "fraudops_template"
# Begun first, the longest of them at the very beginning, so that two test processes end together.
LONGEST = (
    *("test_supervisor.py", "test_demo.py", "test_faults.py", "test_promotion.py", "test_readme.py", "test_inference_start.py", "test_inference_pod.py"),
    *("test_promotion_simulation.py", "test_second_schema.py", "test_shipper.py", "test_inference_process.py"),
)
_numbers = itertools.count()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """After these have been put into a random order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A server of the tests' own; nothing in it outlives them, so it does not wait for the disk."""
    folder = tmp_path_factory.mktemp("postgresql")
    server = PostgreSQL(folder / "server", free_port())
    process = start(server, folder / "postgresql.log", fsync="off", synchronous_commit="off", full_page_writes="off")
    try:
        with lifeline("sh", "-c", f"kill -INT {process.pid}"):
            yield server
    finally:
        stop(process)


@pytest.fixture(scope="session")
def postgresql(postgresql_server: PostgreSQL) -> str:
    """The superuser's DSN."""
    return postgresql_server.admin_url()


@pytest.fixture(scope="session")
def _template(postgresql_server: PostgreSQL) -> str:
    """A database with the audit's tables, migrated once, of which each test gets a copy."""
    with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(TEMPLATE), sql.Identifier(OWNER)))
    migrate = [sys.executable, "-c", "import os; from fraudops.audit.database import migrate; migrate(os.environ['DATABASE_URL'])"]
    subprocess.run(migrate, env={**os.environ, "DATABASE_URL": postgresql_server.url(TEMPLATE)}, check=True, timeout=60)
    return TEMPLATE


@pytest.fixture
def database(postgresql_server: PostgreSQL, _template: str) -> Iterator[str]:
    """The `postgresql://` URL of a fresh database with the audit's tables, for its owner, who is no superuser."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(*map(sql.Identifier, (name, _template, OWNER))))
        yield postgresql_server.url(name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server with an SQLite store. Its models outlive a test: use a model name of your own."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    settings = mlflow_server.environment(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    with (folder / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *mlflow_server.arguments(port)], env={**os.environ, **settings}, stdout=log, stderr=log, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"

    def answers() -> None:
        assert server.poll() is None, (folder / "mlflow.log").read_text()
        httpx.get(f"{url}/api/2.0/mlflow/experiments/get", params={"experiment_id": "0"}).raise_for_status()

    try:
        with lifeline("sh", "-c", f"kill -TERM {server.pid}"):
            eventually(answers, 60)
            yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


@dataclass(frozen=True)
class Platform:
    """The whole product, as `fraudops up --detach` leaves it."""

    state: State

    @property
    def inference_url(self) -> str:
        return endpoints.read(self.state).inference_url

    @property
    def database_url(self) -> str:
        return endpoints.read(self.state).database_url

    @property
    def mlflow_url(self) -> str:
        return endpoints.read(self.state).mlflow_url

    @property
    def admin_token(self) -> str:
        return self.state.admin_token.read_text().strip()

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """`fraudops COMMAND … --state FOLDER`, in an environment of PATH and HOME only."""
        command = [sys.executable, "-c", "from jobs.cli import main; main()", *arguments, "--state", str(self.state.root)]
        return subprocess.run(command, env=bare_environment(), capture_output=True, text=True, timeout=timeout, check=False)


def bare_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}


@contextlib.contextmanager
def down_at_the_end(folder: Path) -> Iterator[Platform]:
    """Of the block, or of the test process: nothing of what runs in `folder` is left."""
    platform = Platform(State.at(folder))
    with lifeline(sys.executable, "-m", "services.supervisor", "down", "--state", str(folder)):
        try:
            yield platform
        finally:
            down = platform.run("down")
            assert down.returncode == 0, down.stderr


@contextlib.contextmanager
def whole_platform(folder: Path) -> Iterator[Platform]:
    with down_at_the_end(folder) as platform:
        up = platform.run("up", "--detach")
        assert up.returncode == 0, up.stderr
        yield platform


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """One for the session: leave it as you found it, or start one of your own."""
    with whole_platform(tmp_path_factory.mktemp("platform") / "state") as started:
        yield started
