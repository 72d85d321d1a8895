"""The way back of a release with another MLflow: the earlier server on the tables of the newer one.

EARLIER_MLFLOW=FOLDER takes the server of another MLflow, which `pip install --target FOLDER` has
installed, and the tables of the installed one. So a release proves a pair before it writes it into
SERVES. Without the variable the tests simulate a newer MLflow.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg
import pytest

from fraudops.errors import SettingsError
from fraudops.mlflow_schema import SERVES, installed_revisions
from jobs.install import mlflow_tables
from services.mlflow.server import arguments, environment
from tests.support.http_client import HTTP
from tests.support.mlflow_runs import API, new_run, put
from tests.support.mlflow_tables import NEWER, allow, make_newer
from tests.support.processes import free_port, lifeline
from tests.support.waiting import eventually

EARLIER = os.environ.get("EARLIER_MLFLOW", "")
HEAD = """
from fraudops.mlflow_schema import installed_revisions
print(installed_revisions()[0])
"""
DECLARED = "SELECT revision, serves FROM fraudops_mlflow_schema"
REVISION = "SELECT version_num FROM alembic_version"


def of_earlier() -> dict[str, str]:
    """Return the environment in which Python finds the earlier MLflow first."""
    folders = [folder for folder in (EARLIER, os.environ.get("PYTHONPATH", "")) if folder]
    return dict(os.environ) | ({"PYTHONPATH": os.pathsep.join(folders)} if folders else {})


@contextmanager
def server(url: str, folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str, Path]]:
    """Start MLflow's server on a database; yield its process, its URL and its log."""
    port, log = free_port(), folder / "mlflow.log"
    settings = of_earlier() | environment(url, folder / "artifacts")
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, "-m", *arguments(port)],
            env=settings,
            stdout=out,
            stderr=out,
            start_new_session=True,
        ) as process,
        lifeline("sh", "-c", f"kill -KILL {process.pid}"),
    ):
        try:
            yield process, f"http://127.0.0.1:{port}", log
        finally:
            process.terminate()


@pytest.fixture
def newer(database_with_mlflow: str) -> tuple[str, str]:
    """Return a database with tables of a newer MLflow, and the revision of the server's own."""
    if not EARLIER:
        make_newer(database_with_mlflow)
        return database_with_mlflow, installed_revisions()[0]
    done = subprocess.run(
        [sys.executable, "-c", HEAD], env=of_earlier(), capture_output=True, check=True, timeout=60
    )
    return database_with_mlflow, done.stdout.decode().strip()


def revision_of(url: str) -> str:
    with psycopg.connect(url) as connection:
        found = connection.execute(REVISION).fetchone()
    assert found is not None
    return str(found[0])


def call_mlflow(url: str, method: str, path: str, **body: str) -> dict[str, dict[str, str]]:
    asked = {"params": body} if method == "GET" else {"json": body}
    answer = HTTP.request(method, f"{url}{API}/mlflow/{path}", **asked)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_the_earlier_server_registers_a_model_on_tables_of_a_newer_release(
    newer: tuple[str, str], tmp_path: Path
) -> None:
    database, head = newer
    revision = revision_of(database)
    assert revision != head
    allow(database, {revision: (head,)})
    with server(database, tmp_path) as (process, url, log):
        call = partial(call_mlflow, url)

        def answers() -> None:
            assert process.poll() is None, log.read_text()
            call("GET", "experiments/get", experiment_id="0")

        eventually(answers, 60)
        assert "newer release" in log.read_text()
        run = new_run(url)
        call("POST", "runs/log-batch", run_id=run)
        put(url, run, "bundle/file", b"content")
        call("POST", "registered-models/create", name="fraud")
        source = {"name": "fraud", "run_id": run, "source": f"runs:/{run}/bundle"}
        made = call("POST", "model-versions/create", **source)["model_version"]
        call("POST", "model-versions/set-tag", name="fraud", version="1", key="a", value="b")
        call("POST", "registered-models/alias", name="fraud", alias="production", version="1")
        found = call("GET", "registered-models/alias", name="fraud", alias="production")
        assert found["model_version"]["version"] == made["version"] == "1"
    assert revision_of(database) == revision


@pytest.mark.skipif(bool(EARLIER), reason="the messages are those of this release")
def test_tables_that_the_newer_release_does_not_allow_end_the_server_with_64(
    newer: tuple[str, str], tmp_path: Path
) -> None:
    database, _ = newer
    allow(database, {NEWER: ("another",)})
    with server(database, tmp_path) as (process, _url, log):
        assert process.wait(60) == 64, log.read_text()
        assert f"have the revision {NEWER} of a newer release" in log.read_text()
        assert "Traceback" not in log.read_text()


@pytest.mark.skipif(bool(EARLIER), reason="the messages are those of this release")
def test_the_migration_of_an_earlier_release_leaves_tables_that_allow_it(
    newer: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`helm rollback` creates the earlier release's Job `migrate` again."""
    database, head = newer
    with pytest.raises(SettingsError, match="restore a backup"):
        mlflow_tables.upgrade(database)
    allow(database, {NEWER: (head,)})
    mlflow_tables.upgrade(database)
    assert "a newer release, which allows this one: they stay" in capsys.readouterr().err
    assert revision_of(database) == NEWER


def test_an_upgrade_declares_the_earlier_servers_that_may_go_on(database_with_mlflow: str) -> None:
    mlflow_tables.upgrade(database_with_mlflow)
    mlflow_tables.upgrade(database_with_mlflow)
    with psycopg.connect(database_with_mlflow) as connection:
        declared = connection.execute(DECLARED).fetchall()
    head = installed_revisions()[0]
    assert declared == [(head, list(SERVES[head]))]


def test_the_release_has_decided_about_the_way_back_from_its_mlflow() -> None:
    """A change of MLflow fails here: run this file with EARLIER_MLFLOW, then add the line."""
    head, known = installed_revisions()
    assert head in SERVES
    assert {earlier for serves in SERVES.values() for earlier in serves} <= known
