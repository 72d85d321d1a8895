"""Real servers, started once a session when the first test asks: PostgreSQL, MLflow, and the whole
product under its supervisor.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import hypothesis
import psycopg
import pytest
from psycopg import sql
from xdist.scheduler import LoadFileScheduling

from fraudops import endpoints
from fraudops.state import State
from jobs.cli import SUPERVISOR, cli
from jobs.score import command as score_command
from services.mlflow import server as mlflow_server
from services.supervisor.postgresql import OWNER, PostgreSQL, start
from tests.support.commands import Caller, Told, call
from tests.support.http_client import HTTP
from tests.support.processes import free_port, lifeline
from tests.support.scored import Scene, make_scene
from tests.support.shared_servers import Begun, alone, run_folder, shared
from tests.support.waiting import eventually

TEMPLATE, UNFINISHED = "fraudops_template", "fraudops_template_unfinished"
# A machine that does something else meanwhile is no fault of what is tested.
hypothesis.settings.register_profile(
    "busy", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy")
# These share one whole product, so one test process runs them all; a file that is missing here
# works too, and starts another.
ON_THE_PLATFORM = (
    "test_promotion.py",
    "test_readme.py",
    "test_predict.py",
    "test_simulate.py",
    "test_score_served.py",
    "test_acceptance.py",
)
# Begun first, the longest of them at the very beginning, so that all test processes end together.
LONGEST = (
    *(
        "test_demo.py",
        *ON_THE_PLATFORM,
        "test_supervisor.py",
        "test_faults.py",
        "test_inference_start.py",
        "test_inference_pod.py",
    ),
    *(
        "test_promotion_simulation.py",
        "test_pipeline.py",
        "test_second_schema.py",
        "test_shipper.py",
        "test_drift.py",
        "test_spool_volume.py",
    ),
    *("test_durability.py", "test_inference_process.py"),
)


class Scheduling(LoadFileScheduling):
    """A file's tests stay together, and so do the files that share the whole product."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "the platform" if Path(file).name in ON_THE_PLATFORM else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """After these have been put into a random order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def postgresql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    """A server of the tests' own; nothing in it outlives them, so it does not wait for the disk.

    All test processes share it: use names of your own.
    """

    def begin() -> Begun:
        server = PostgreSQL(tmp_path_factory.mktemp("postgresql") / "server", free_port())
        process = start(
            server,
            server.folder.with_name("postgresql.log"),
            fsync="off",
            synchronous_commit="off",
            full_page_writes="off",
            max_connections="120",
        )
        return Begun(process, signal.SIGINT, f"{server.port} {server.folder}")

    with shared(run_folder(tmp_path_factory) / "shared-postgresql", begin) as address:
        port, folder = address.split(" ", 1)
        yield PostgreSQL(Path(folder), int(port))


@pytest.fixture(scope="session")
def postgresql(postgresql_server: PostgreSQL) -> str:
    """The superuser's DSN."""
    return postgresql_server.admin_url()


@pytest.fixture(scope="session")
def _template(postgresql_server: PostgreSQL) -> str:
    """A database with the audit's tables, migrated once, of which each test gets a copy."""
    migrate = [
        sys.executable,
        "-c",
        "import os; from fraudops.audit.database import migrate; migrate(os.environ['DATABASE_URL'])",
    ]
    with (
        alone(postgresql_server.folder / "template.lock"),
        psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin,
    ):
        if not admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [TEMPLATE]).fetchone():
            admin.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(
                    sql.Identifier(UNFINISHED), sql.Identifier(OWNER)
                )
            )
            subprocess.run(
                migrate,
                env={**os.environ, "DATABASE_URL": postgresql_server.url(UNFINISHED)},
                check=True,
                timeout=60,
            )
            admin.execute(
                sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                    sql.Identifier(UNFINISHED), sql.Identifier(TEMPLATE)
                )
            )
    return TEMPLATE


@pytest.fixture
def database(postgresql_server: PostgreSQL, _template: str) -> Iterator[str]:
    """The `postgresql://` URL of a fresh database with the audit's tables, for its owner, who is no
    superuser.
    """
    name = f"test_{uuid4().hex}"
    with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
                *map(sql.Identifier, (name, _template, OWNER))
            )
        )
        yield postgresql_server.url(name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server with an SQLite store.

    All test processes share it and its models outlive a test: use a model name of your own.
    """
    with shared(
        run_folder(tmp_path_factory) / "shared-mlflow",
        lambda: start_mlflow(tmp_path_factory.mktemp("mlflow")),
    ) as url:
        yield url


def start_mlflow(folder: Path) -> Begun:
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
    return Begun(server, signal.SIGTERM, url)


@dataclass(frozen=True)
class Platform:
    """The whole product, as `fraudops up --detach` leaves it."""

    state: State
    environment: dict[str, str] = field(default_factory=dict)

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

    def run(self, *arguments: str) -> Told:
        """`fraudops COMMAND … --state FOLDER` in an environment of PATH and HOME only; in this
        process, unless it takes the process over.
        """
        if arguments[0] in SUPERVISOR:
            return self.start(*arguments)
        return call(
            "fraudops",
            cli,
            *arguments,
            "--state",
            self.state.root,
            **bare_environment(),
            **self.environment,
        )

    def start(self, *arguments: str) -> Told:
        """The same in a process of its own."""
        command = [
            sys.executable,
            "-c",
            "from jobs.cli import main; main()",
            *arguments,
            "--state",
            str(self.state.root),
        ]
        environment = bare_environment() | self.environment
        told = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        return Told(told.returncode, told.stdout, told.stderr)


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


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    return Caller("score", score_command, monkeypatch, capsys)
