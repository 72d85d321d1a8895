"""PostgreSQL by plain asyncpg: connections, and which of its errors mean "away for now".

Light: the shipper imports no SQLAlchemy.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from fraudops.errors import SettingsError
from fraudops.urls import malformed, split_url

CONNECT_SECONDS = 10.0
# SQLSTATEs that pass without our doing: connection, resources, shutdown and recovery, locks,
# conflicts, a standby, a role or database not there yet.
TEMPORARY = ("08", "53", "57", "55", "40", "25006", "28", "3D", "58", "XX")
NO_SCHEMA = ("42P01", "42703", "3F000")
AWAY = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# What asyncpg and the sockets below it raise. InternalClientError too: a server that ends the
# connection within a COPY leaves asyncpg's own state broken.
TROUBLE = (asyncpg.PostgresError, *AWAY)


def dsn(url: str, name: str = "DATABASE_URL") -> str:
    """The URL as asyncpg takes it: `postgres://` and any `postgresql+driver://` included.

    Raises SettingsError without quoting it.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise SettingsError(
            f"{name} must begin with postgresql:// (postgres:// is taken as the same)"
        )
    if split_url(url, name).fragment:
        raise malformed(name)
    return f"postgresql://{rest}"


def address(url: str) -> str:
    """Host, port and database of the URL: what a message may name."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"


async def connect(url: str, program: str = "fraudops") -> Any:
    """A plain asyncpg connection, in UTC. Raises what asyncpg raises: use within `translated`."""
    checked = dsn(url)
    try:
        return await asyncpg.connect(
            checked,
            timeout=CONNECT_SECONDS,
            server_settings={"application_name": program, "timezone": "UTC"},
        )
    except asyncpg.InterfaceError:
        raise  # also a ValueError, but one that quotes no password
    except ValueError:
        raise malformed("DATABASE_URL") from None


@asynccontextmanager
async def open_connection(url: str, program: str = "fraudops") -> AsyncIterator[Any]:
    """Open a connection as `connect` does, for one block, and close it at the end of the block."""
    connection = await connect(url, program)
    try:
        yield connection
    finally:
        await connection.close()


def sqlstate(error: BaseException) -> str:
    """The five characters of PostgreSQL's error, also from inside SQLAlchemy's wrapping; "" when it
    is none of PostgreSQL's.
    """
    inner = getattr(error, "orig", None) or error
    return str(getattr(inner, "sqlstate", None) or "")


def why_away(error: BaseException) -> str | None:
    """Why nothing can be done now, in words that quote no data;

    None when the error is about what was asked.
    """
    state = sqlstate(error)
    if state in NO_SCHEMA:
        return "has not the audit's tables, or older ones: run `fraudops migrate`"
    if state.startswith("28"):
        return "refuses this user or password: check DATABASE_URL"
    if state.startswith("3D"):
        return "has no such database: check DATABASE_URL"
    if state.startswith(TEMPORARY):
        return f"cannot do it now (SQLSTATE {state}): try again"
    if state:
        return None
    inner = getattr(error, "orig", None) or error
    # The cause of a wrapped error says more; that of a timeout is only that something was
    # cancelled.
    cause = next((one for one in (inner.__cause__, inner) if isinstance(one, AWAY)), None)
    if cause or getattr(error, "connection_invalidated", False):
        return f"does not answer ({type(cause or inner).__name__}): is it running, and is DATABASE_URL right?"
    return None
