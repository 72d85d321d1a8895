"""Several hosts in DATABASE_URL: a new primary is found, and the shipper loses nothing."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from fraudops.audit.connection import open_connection
from fraudops.audit.database import translated
from fraudops.audit.migrations import migrate
from fraudops.database_url import read_database_url
from fraudops.errors import StoreDownError
from fraudops.state import State
from services.supervisor.postgresql import ADMIN, OWNER, PostgreSQL, binaries
from services.supervisor.postgresql_processes import server_processes
from services.supervisor.postgresql_standalone import start, stop
from tests.support.fault_proxy import FaultProxy
from tests.support.processes import free_port, lifeline
from tests.support.shippers import Start, expect
from tests.support.spool_load import grows, load
from tests.support.waiting import eventually

REPLICATION = {"wal_level": "replica", "max_wal_senders": "4", "fsync": "off"}


@dataclass
class Pair:
    """A primary and its synchronous standby."""

    primary: PostgreSQL
    standby: PostgreSQL

    def url(self, *first: PostgreSQL) -> str:
        """Return a URL of both servers, `first` in front."""
        hosts = dict.fromkeys((*first, self.primary, self.standby))
        listed = ",".join(f"127.0.0.1:{server.port}" for server in hosts)
        alone = self.primary.url()
        return (
            alone.replace(f"127.0.0.1:{self.primary.port}", listed)
            + "?target_session_attrs=read-write&connect_timeout=3"
        )

    def kill_primary(self) -> None:
        processes = server_processes(self.primary.data)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, 10)

    def fail_over(self) -> None:
        """Kill the primary, as a lost node does, and promote the standby."""
        self.kill_primary()
        with psycopg.connect(self.standby.admin_url(), autocommit=True) as admin:
            admin.execute("SELECT pg_promote()")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with ExitStack() as stack:
        primary = PostgreSQL(tmp_path / "primary", free_port())
        stack.enter_context(running(primary))
        migrate(primary.url())
        standby = copied(primary, tmp_path / "standby")
        stack.enter_context(running(standby))
        with psycopg.connect(primary.admin_url(), autocommit=True) as admin:
            # A commit waits until the standby has it. Without this, what the primary confirmed and
            # had not sent is lost with it.
            admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            admin.execute("SELECT pg_reload_conf()")

            def synchronous() -> None:
                row = admin.execute("SELECT sync_state FROM pg_stat_replication").fetchone()
                assert row == ("sync",)

            eventually(synchronous)
        yield Pair(primary, standby)


@contextmanager
def running(server: PostgreSQL) -> Iterator[None]:
    process = start(server, server.folder.with_suffix(".log"), **REPLICATION)
    with lifeline("sh", "-c", f"kill -INT {process.pid}"):
        try:
            yield
        finally:
            stop(process)


def copied(primary: PostgreSQL, folder: Path) -> PostgreSQL:
    """Copy a running server to a standby that follows it."""
    standby = PostgreSQL(folder, free_port())
    folder.mkdir(mode=0o700)
    for role in (ADMIN, OWNER):
        shutil.copy(primary.folder / f"{role}.password", folder)
    subprocess.run(
        [
            *(binaries() / "pg_basebackup", "--pgdata", standby.data, "--write-recovery-conf"),
            *("--dbname", primary.admin_url(), "--checkpoint=fast", "--no-sync"),
        ],
        check=True,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
    )
    return standby


async def test_a_connection_finds_the_primary_wherever_it_stands_in_the_list(pair: Pair) -> None:
    for first in (pair.primary, pair.standby):
        async with open_connection(pair.url(first)) as connection:
            assert not await connection.fetchval("SELECT pg_is_in_recovery()")
        with psycopg.connect(**read_database_url(pair.url(first)).for_psycopg()) as other:
            assert other.execute("SELECT pg_is_in_recovery()").fetchone() == (False,)


async def test_a_list_without_a_primary_says_so(pair: Pair) -> None:
    pair.kill_primary()
    with pytest.raises(StoreDownError, match="does not fit target_session_attrs"):
        await connect_once(pair.url())


async def test_a_host_that_stays_silent_does_not_hide_the_next(database: str) -> None:
    """A lost node swallows packets: neither an answer nor a refusal comes."""
    parts = read_database_url(database)
    with FaultProxy(parts.hosts[0][1]).running() as proxy:
        proxy.stall()
        silent = f"127.0.0.1:{proxy.port},{parts.host_list}"
        async with asyncio.timeout(60):
            await connect_once(f"{database.replace(parts.host_list, silent)}?connect_timeout=1")


async def connect_once(url: str) -> None:
    with translated(url):
        async with open_connection(url):
            pass


def test_the_shipper_follows_a_failover(pair: Pair, state: State, start_shipper: Start) -> None:
    with load(state) as appended:
        shipper = start_shipper(pair.url())
        grows(pair.primary.url())
        pair.fail_over()
        grows(pair.standby.url())
    expect(pair.standby.url(), appended)
    assert shipper.process.poll() is None
