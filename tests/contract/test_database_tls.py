"""`sslmode=verify-full` with a private CA, and client certificates.

Each driver gets the same URL. PgBouncer is the server of TLS, because the packaged PostgreSQL is
built without it; a real PostgreSQL stands behind.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text

from fraudops.audit.connection import open_connection
from fraudops.audit.database import create_engine, translated
from fraudops.database_url import read_database_url
from fraudops.errors import SettingsError, StoreDownError
from services.mlflow.wait import fault
from services.supervisor.postgresql import OWNER
from tests.support.certificates import Authority, make_authority
from tests.support.pgbouncer import needs_pgbouncer, running_pgbouncer

pytestmark = needs_pgbouncer


@dataclass(frozen=True)
class TlsServer:
    """A server whose certificate is valid for `localhost` and not for 127.0.0.1.

    `strict` is a second one, which asks for a certificate of the client.
    """

    folder: Path
    authority: Authority
    open: str
    strict: str

    def url(self, *, host: str = "localhost", strict: bool = False, **options: object) -> str:
        options = {"sslmode": "verify-full", "sslrootcert": self.authority.file} | options
        query = "&".join(f"{key}={value}" for key, value in options.items())
        return (self.strict if strict else self.open).replace("127.0.0.1", host) + f"?{query}"

    @property
    def password(self) -> str:
        return read_database_url(self.open).password


@pytest.fixture
def tls(database: str, tmp_path: Path) -> Iterator[TlsServer]:
    authority = make_authority(tmp_path, "bank-ca")
    with ExitStack() as stack:
        urls = []
        for mode in ("require", "verify-full"):
            folder = tmp_path / mode
            folder.mkdir()
            certificate, key = authority.issue(folder, "server", "localhost")
            files = {"client_tls_cert_file": certificate, "client_tls_key_file": key}
            files["client_tls_ca_file"] = Path(shutil.copy(authority.file, folder))
            pooler = stack.enter_context(
                running_pgbouncer(folder, database, client_tls_sslmode=mode, **files)
            )
            urls.append(pooler.behind(database))
        yield TlsServer(tmp_path, authority, *urls)


async def by_asyncpg(url: str) -> bool:
    with translated(url):
        async with open_connection(url) as connection:
            return bool(await connection.fetchval("SELECT 1"))


async def by_sqlalchemy(url: str) -> bool:
    engine = create_engine(url)
    try:
        with translated(url):
            async with engine.connect() as connection:
                return bool(await connection.scalar(text("SELECT 1")))
    finally:
        await engine.dispose()


async def by_psycopg(url: str) -> bool:
    if reason := fault(url):
        raise StoreDownError(reason)
    with psycopg.connect(**read_database_url(url).for_psycopg()) as connection:
        return bool(connection.execute("SELECT 1").fetchone()) and connection.pgconn.ssl_in_use


Driver = Callable[[str], Awaitable[bool]]
drivers = pytest.mark.parametrize("driver", [by_asyncpg, by_sqlalchemy, by_psycopg])


@drivers
async def test_the_same_url_connects_every_driver(tls: TlsServer, driver: Driver) -> None:
    assert await driver(tls.url())
    # The server speaks nothing but TLS.
    with pytest.raises(StoreDownError):
        await driver(tls.url(sslmode="disable"))


@drivers
@pytest.mark.parametrize("wrong", ["name", "authority", "authority of the system"])
async def test_a_server_that_cannot_be_verified_is_refused_without_the_password(
    tls: TlsServer, driver: Driver, wrong: str
) -> None:
    options: dict[str, dict[str, object]] = {
        "name": {"host": "127.0.0.1"},
        "authority": {"sslrootcert": make_authority(tls.folder, "other-ca").file},
        "authority of the system": {"sslrootcert": "system"},
    }
    with pytest.raises(StoreDownError, match="certificate") as refused:
        await driver(tls.url(**options[wrong]))  # type: ignore[arg-type]
    assert tls.password not in str(refused.value)
    if driver is not by_psycopg:
        assert "check sslrootcert and the name of the host" in str(refused.value)


async def test_a_server_without_tls_is_refused_where_the_url_asks_for_it(database: str) -> None:
    with pytest.raises(StoreDownError, match="offers no TLS, and sslmode in DATABASE_URL asks"):
        await by_asyncpg(f"{database}?sslmode=require")


@drivers
async def test_a_client_certificate_is_shown(tls: TlsServer, driver: Driver) -> None:
    certificate, key = tls.authority.issue(tls.folder, OWNER)
    assert await driver(tls.url(strict=True, sslcert=certificate, sslkey=key))
    with pytest.raises(StoreDownError):
        await driver(tls.url(strict=True))


@drivers
async def test_the_variables_of_the_chart_serve_every_driver_and_the_url_wins(
    tls: TlsServer, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = tls.authority.issue(tls.folder, OWNER)
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLROOTCERT", str(tls.authority.file))
    monkeypatch.setenv("PGSSLCERT", str(certificate))
    monkeypatch.setenv("PGSSLKEY", str(key))
    mounted = tmp_path / "url"
    mounted.write_text(tls.strict.replace("127.0.0.1", "localhost"))
    assert await driver(f"file:{mounted}")
    # The certificate is not valid for this name, and only `verify-full` asks for one.
    with pytest.raises(StoreDownError, match="certificate"):
        await driver(tls.strict)
    assert await driver(f"{tls.strict}?sslmode=verify-ca")
    monkeypatch.setenv("PGSSLROOTCERT", str(mounted))
    with pytest.raises(StoreDownError):
        await driver(f"file:{mounted}")


@drivers
@pytest.mark.parametrize("option", ["sslrootcert", "sslcert"])
async def test_a_file_that_is_not_mounted_is_a_wrong_setting(
    tls: TlsServer, driver: Driver, option: str
) -> None:
    with pytest.raises(SettingsError, match=option):
        await driver(tls.url(**{option: tls.folder / "missing.crt"}))


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        ({"host": "127.0.0.1"}, 75, "certificate that DATABASE_URL does not allow"),
        ({"sslrootcert": "/nowhere/ca.crt"}, 64, "file of sslrootcert in DATABASE_URL"),
        ({"sslmode": "verify"}, 64, "sslmode in DATABASE_URL must be one of"),
    ],
)
def test_a_command_ends_with_the_code_of_its_reason(
    tls: TlsServer, options: dict[str, str], code: int, reason: str
) -> None:
    """A certificate can be mended while a program waits; a wrong setting cannot."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.migrate", "--wait", "0"],
        env={**os.environ, "DATABASE_URL": tls.url(**options)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, reason in done.stderr) == (code, True), done.stderr
    assert tls.password not in done.stderr
    assert "Traceback" not in done.stderr


async def test_require_verifies_the_authority_once_one_is_known(
    tls: TlsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg does as libpq does: `require` verifies the CA, and not the name of the host."""
    url = f"{tls.open}?sslmode=require"
    assert await by_asyncpg(url)
    monkeypatch.setenv("PGSSLROOTCERT", str(make_authority(tls.folder, "other").file))
    for driver in (by_asyncpg, by_psycopg):
        with pytest.raises(StoreDownError, match="certificate"):
            await driver(url)


async def test_a_known_authority_does_not_move_a_connection_to_plain_text(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `prefer` libpq verifies a known CA, and connects without TLS if it does not fit."""
    certificate, key = make_authority(tmp_path, "bank").issue(tmp_path, "server", "localhost")
    folder = tmp_path / "pgbouncer"
    folder.mkdir()
    files = [shutil.copy(file, folder) for file in (certificate, key)]
    with running_pgbouncer(
        folder,
        database,
        client_tls_sslmode="allow",
        client_tls_cert_file=files[0],
        client_tls_key_file=files[1],
    ) as pooler:
        url = pooler.behind(database)
        assert await by_psycopg(url)
        monkeypatch.setenv("PGSSLROOTCERT", str(make_authority(tmp_path, "other").file))
        assert await by_psycopg(url)
