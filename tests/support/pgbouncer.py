"""PgBouncer in transaction mode, started from the installed package of the operating system."""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from services.supervisor.identity import choose_identity
from tests.support.processes import free_port, lifeline
from tests.support.waiting import eventually

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
# With FRAUDOPS_REQUIRE=pgbouncer these tests fail without the package: a run that skips them would
# claim what nothing has shown.
needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None and os.environ.get("FRAUDOPS_REQUIRE") != "pgbouncer",
    reason="pgbouncer is not installed: run `make pgbouncer`",
)
# With `server_round_robin` each transaction gets another connection of the server, so that
# anything that stays on one of them is missed in the next transaction. Statements of the protocol
# are not followed (`max_prepared_statements` is newer than Debian 12).
CONFIGURATION = """
[databases]
* = host={host} port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {size}
server_round_robin = 1
server_login_retry = 0.2
query_wait_timeout = 30
server_lifetime = 3600
"""


@dataclass
class PgBouncer:
    """One pooler; `folder` has its configuration, its users and its log."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = None

    def behind(self, url: str) -> str:
        """Return the URL of the same database through the pooler."""
        parts = urlsplit(url)
        host = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}"
        return parts._replace(netloc=host).geturl()

    def start(self) -> None:
        identity = choose_identity(self.folder, Path(PROGRAM or ""))
        identity.adopt(self.folder)
        with (self.folder / "pgbouncer.log").open("ab") as log:
            self.process = subprocess.Popen(
                identity.wrap(str(PROGRAM), "-q", str(self.folder / "pgbouncer.ini")),
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )

    def accepts(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), 5).close()

    def end(self, number: int = signal.SIGTERM) -> None:
        """Kill the pooler, or let it end as Kubernetes does: its clients are cut off."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(10)


@contextmanager
def running_pgbouncer(
    folder: Path, url: str, size: int = 4, **settings: object
) -> Iterator[PgBouncer]:
    """Run a pooler in front of the URL's server, for the URL's user.

    `settings` are more lines of its configuration. They may name files in `folder`.
    """
    folder.mkdir(exist_ok=True)
    pooler, server, users = PgBouncer(folder, free_port()), urlsplit(url), folder / "users.txt"
    user, password = unquote(server.username or ""), unquote(server.password or "")
    users.write_text(f'"{user}" "{password}"\n')
    lines = CONFIGURATION.format(
        host=server.hostname, server=server.port, port=pooler.port, users=users, size=size
    )
    more = "".join(f"{name} = {value}\n" for name, value in settings.items())
    (folder / "pgbouncer.ini").write_text(lines + more)
    pooler.start()
    assert pooler.process
    with lifeline("sh", "-c", f"kill -KILL {pooler.process.pid}"):
        try:
            eventually(pooler.accepts, 20)
            yield pooler
        finally:
            pooler.end(signal.SIGKILL)
