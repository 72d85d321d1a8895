"""A password that changes while the shipper ships: nothing is lost or written twice."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from fraudops.database_url import read_database_url
from fraudops.state import State
from services.supervisor.postgresql import OWNER
from tests.support.shippers import RunningShipper, Start, expect
from tests.support.spool_load import grows, load
from tests.support.waiting import eventually

# The content of the mounted file, and the URL that names the file.
KINDS = {
    "url": ("postgresql://{role}:{quoted}@{at}", "file:{file}"),
    "password": ("{password}", "postgresql://{role}:stale@{at}?password_file={file}"),
}
# What MLflow's server does for each new connection, without MLflow.
STORE = """
import sys
from sqlalchemy import create_engine, pool, text
from services.mlflow.server import follow

url = follow(sys.argv[1])
engine = create_engine(url, poolclass=pool.NullPool)
print(url, flush=True)
for _ in sys.stdin:
    with engine.connect() as connection:
        print(connection.scalar(text("SELECT 'connected'")), flush=True)
"""


@pytest.fixture
def role(database: str, postgresql: str) -> Iterator[str]:
    """Yield a role that may write to the database. Only these tests change its password."""
    name = f"rotated_{os.getpid()}"
    with psycopg.connect(postgresql, autocommit=True) as admin:
        identifier = sql.Identifier(name)
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'first' IN ROLE {}").format(
                identifier, sql.Identifier(OWNER)
            )
        )
        yield name
        admin.execute(sql.SQL("DROP ROLE {}").format(identifier))


def mount(folder: Path, content: str) -> None:
    """Replace the file `secret` in the folder as the kubelet does: by a link, in one step."""
    version = folder / f"..{len(list(folder.iterdir()))}"
    version.mkdir(parents=True)
    (version / "secret").write_text(content)
    (folder / "..new").symlink_to(version.name)
    (folder / "..new").rename(folder / "..data")
    if not (folder / "secret").is_symlink():
        (folder / "secret").symlink_to("..data/secret")


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_password_is_followed_without_a_restart(
    kind: str,
    role: str,
    database: str,
    postgresql: str,
    state: State,
    start_shipper: Start,
    tmp_path: Path,
) -> None:
    """The file changes after the server, as with the kubelet, which is late by up to a minute."""
    content, url = KINDS[kind]
    parts, folder = read_database_url(database), tmp_path / "mounted"
    folder.mkdir()
    known = {"role": role, "at": f"{parts.host_list}/{parts.database}", "file": folder / "secret"}

    def mount_password(password: str) -> None:
        quoted = quote(password, safe="")
        mount(folder, content.format(password=password, quoted=quoted, **known))

    mount_password("first")
    with load(state) as appended:
        shipper = start_shipper(url.format(**known))
        grows(database)
        for password in ("p@ss/2", "third"):
            change_password(postgresql, role, password)
            eventually(lambda: is_refused(shipper))
            mount_password(password)
            grows(database)
    expect(database, appended)
    eventually(lambda: ships(shipper))


def is_refused(shipper: RunningShipper) -> None:
    assert "refuses this user or password" in (shipper.status.last_error or "")


def ships(shipper: RunningShipper) -> None:
    assert (shipper.status.phase, shipper.status.last_error) == ("shipping", None)


def test_mlflows_store_follows_the_password_and_its_url_has_none(
    role: str, database: str, postgresql: str, tmp_path: Path
) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    parts = read_database_url(database)
    url = f"postgresql://{role}@{parts.host_list},{parts.host_list}/{parts.database}"
    mount(folder, "first")
    with subprocess.Popen(
        [sys.executable, "-c", STORE, f"{url}?password_file={folder / 'secret'}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as store:
        assert store.stdin
        assert store.stdout
        assert store.stdout.readline() == f"postgresql+psycopg://127.0.0.1/{parts.database}\n"
        for password in ("first", "second"):
            change_password(postgresql, role, password)
            mount(folder, password)
            store.stdin.write("\n")
            store.stdin.flush()
            assert store.stdout.readline() == "connected\n"
        store.stdin.close()


def change_password(admin_url: str, role: str, password: str) -> None:
    """Change the password and end the role's connections, as some tools for rotation do."""
    with psycopg.connect(admin_url, autocommit=True) as admin:
        change = sql.SQL("ALTER ROLE {} PASSWORD {}")
        admin.execute(change.format(sql.Identifier(role), sql.Literal(password)))
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [role]
        )
