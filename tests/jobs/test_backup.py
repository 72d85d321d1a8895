"""A backup of a real PostgreSQL and of files, and its restore into empty ones."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from fraudops.database_url import read_database_url
from fraudops.errors import StoreDownError
from jobs.install.backup import ARTIFACTS, COMPLETE, SUMS, command, finish
from services.supervisor.postgresql import HOST, OWNER, PostgreSQL, binaries
from tests.support.commands import CommandResult, call
from tests.support.kubernetes_secrets import StoredObjects, serve_objects

RECORD = json.dumps({"current": {"version": "7", "epoch": 3}})
ROW = """
INSERT INTO promotions (id, request, started_at, model_name, to_version, to_digest, strategy,
                        outcome, requested_by)
VALUES (gen_random_uuid(), 'r', now(), 'm', '7', 'd', 'broadcast', 'done', 'x')
"""


class Site:
    """A volume, the hand-over of one pod, artifacts, and an API with the serving record."""

    def __init__(self, folder: Path, stored: StoredObjects, kubeconfig: Path) -> None:
        self.stored, self.kubeconfig, self.as_a_program = stored, kubeconfig, False
        self.volume, self.hand_over = folder / "volume", folder / "hand-over"
        self.artifacts = folder / "mlflow" / "artifacts"
        for each in (self.hand_over, self.artifacts / "1" / "model"):
            each.mkdir(parents=True)
        (self.artifacts / "1" / "model" / "bundle.json").write_text("content")
        data = {"data": {"serving.json": RECORD}}
        self.stored.store("configmaps/serving", {"metadata": {"name": "serving"}, **data})

    def step(self, name: str, *more: str, **variables: str) -> CommandResult:
        where = ("--volume", str(self.volume), "--hand-over", str(self.hand_over))
        own = {"KUBECONFIG": str(self.kubeconfig), "FRAUDOPS_CLUSTER__NAMESPACE": "default"}
        if not self.as_a_program:
            return call("backup", command, name, *where, *more, **own | variables)
        done = subprocess.run(
            [sys.executable, "-m", "jobs.install.backup", name, *where, *more],
            env=own | variables,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return CommandResult(done.returncode, done.stdout, done.stderr)

    def begin(self, audit: str, mlflow: str = "") -> None:
        """Run the first step with the URLs of the two databases, which may be one."""
        urls = {"DATABASE_URL": audit, "MLFLOW_BACKEND_STORE_URI": mlflow or audit}
        done = self.step("begin", "--record", "serving", **urls)
        assert done.returncode == 0, done.stderr

    def dump(self) -> None:
        """Run the script as PostgreSQL's own image does."""
        subprocess.run(
            ["sh", str(self.hand_over / "dump.sh")],
            env={"PATH": f"{binaries()}:{os.environ['PATH']}"},
            check=True,
            timeout=120,
        )

    def finish(self, keep: int = 7) -> Path:
        options = ("--artifacts", str(self.artifacts), "--keep", str(keep))
        done = self.step("finish", *options)
        assert done.returncode == 0, done.stderr
        return max(path for path in self.volume.iterdir() if COMPLETE.fullmatch(path.name))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with serve_objects(tmp_path) as (stored, kubeconfig):
        yield Site(tmp_path, stored, kubeconfig)


@pytest.fixture
def empty(postgresql_server: PostgreSQL) -> Iterator[str]:
    """Yield the name of a new database without tables, as the restore makes it."""
    name = f"restored_{os.getpid()}"
    with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
        known, owner = sql.Identifier(name), sql.Identifier(OWNER)
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(known, owner))
        yield name
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(known))


def test_a_backup_restores_rows_owner_and_files(
    site: Site, database: str, empty: str, postgresql_server: PostgreSQL, tmp_path: Path
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(ROW)
    # Each step is a process of its own here, as the chart starts it.
    site.as_a_program = True
    site.begin(database)
    site.dump()
    folder = site.finish()
    assert (folder / "serving.json").read_text() == RECORD
    subprocess.run(["sha256sum", "--check", "--quiet", SUMS], cwd=folder, check=True)
    restore = [str(binaries() / "pg_restore"), "--no-owner", f"--role={OWNER}", "--exit-on-error"]
    admin = f"--dbname={postgresql_server.admin_url(empty)}"
    subprocess.run([*restore, admin, str(folder / "audit.dump")], check=True, timeout=120)
    with psycopg.connect(postgresql_server.url(empty)) as connection:
        found = connection.execute("SELECT to_version FROM promotions").fetchall()
        # The owner may change the restored tables, as the next migration does.
        connection.execute("ALTER TABLE promotions ADD COLUMN later text")
    assert found == [("7",)]
    copy = tmp_path / "restored"
    copy.mkdir()
    subprocess.run(["tar", "-x", "-C", str(copy), "-f", str(folder / ARTIFACTS)], check=True)
    assert (copy / "artifacts" / "1" / "model" / "bundle.json").read_text() == "content"


@pytest.fixture
def awkward(postgresql_server: PostgreSQL, empty: str) -> Iterator[tuple[str, str]]:
    """Yield two URLs for an empty database, of roles with different passwords."""
    # Colons and backslashes are signs of a password file. libpq drops a line's last spaces from a
    # service file.
    passwords = {"one": "a:b\\c #=* ", "two": "\\:\\ \t "}
    roles = {f"{each}_{os.getpid()}": password for each, password in passwords.items()}
    with psycopg.connect(postgresql_server.admin_url(), autocommit=True) as admin:
        for role, password in roles.items():
            known = (sql.Identifier(role), sql.Literal(password))
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(*known))
        place = f"{HOST}:{postgresql_server.port}/{empty}"
        one, two = (
            f"postgresql://{role}:{quote(password, safe='')}@{place}"
            for role, password in roles.items()
        )
        yield one, two
        for role in roles:
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_each_password_reaches_the_server_as_it_is(site: Site, awkward: tuple[str, str]) -> None:
    site.begin(*awkward)
    site.dump()
    assert {"audit.dump", "mlflow.dump"} < {path.name for path in site.finish().iterdir()}


def test_passwords_are_in_files_of_their_own_that_go_with_the_dump(
    site: Site, database: str
) -> None:
    site.begin(database)
    password = read_database_url(database).password
    holders = {path for path in site.hand_over.iterdir() if password in path.read_text()}
    assert {path.name for path in holders} == {"audit.pgpass", "mlflow.pgpass"}
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}
    site.dump()
    assert {path.name for path in site.hand_over.iterdir()} == {"folder", "dump.sh"}


def test_a_backup_before_the_first_promotion_has_no_record(site: Site, database: str) -> None:
    site.stored.store("configmaps/serving", {"metadata": {"name": "serving"}})
    site.begin(database)
    site.dump()
    assert {path.name for path in site.finish().iterdir()} == {
        *("audit.dump", "mlflow.dump"),
        *(ARTIFACTS, SUMS),
    }


def test_a_dump_that_fails_ends_its_container_before_the_next_dump(
    site: Site, database: str
) -> None:
    """Kubernetes then does not start the container that completes the backup."""
    site.begin(database.rpartition("/")[0] + "/nowhere")
    with pytest.raises(subprocess.CalledProcessError):
        site.dump()
    (folder,) = site.volume.iterdir()
    assert not (folder / "mlflow.dump").exists()


def test_the_newest_backups_stay_and_a_killed_one_goes_after_a_day(
    site: Site, database: str
) -> None:
    old = [site.volume / f"2026010{day}T000000Z" for day in range(1, 5)]
    killed, running, other = (
        site.volume / name
        for name in (".20260101T000000Z.partial", ".20260102T000000Z.partial", "lost+found")
    )
    for folder in (*old, killed, running, other):
        folder.mkdir(parents=True)
    long_ago = time.time() - 2 * 86_400
    os.utime(killed, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))
    site.begin(database)
    site.dump()
    newest = site.finish(keep=3)
    assert set(site.volume.iterdir()) == {*old[2:], newest, running, other}


def test_a_volume_that_cannot_be_written_to_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text(str(tmp_path / "nowhere"))
    with pytest.raises(StoreDownError, match="cannot be used"):
        finish(tmp_path, tmp_path, None, 1)
