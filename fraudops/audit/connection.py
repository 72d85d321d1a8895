"""Connections to PostgreSQL by asyncpg, and the meaning of its errors.

It does not import SQLAlchemy, which would make the shipper start slowly.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from fraudops.errors import SettingsError
from fraudops.urls import malformed, split_url

CONNECT_SECONDS = 10.0
# Prefixes of SQLSTATEs after which the same request may succeed later. The conditions are:
# connection, resources, shutdown and recovery, locks, conflicts, a standby, a missing role or
# database.
TEMPORARY = ("08", "53", "57", "55", "40", "25006", "28", "3D", "58", "XX")
NO_SCHEMA = ("42P01", "42703", "3F000")
NO_RIGHT = "42501"
# Errors of the connection itself. InternalClientError is one of them, because asyncpg's own state
# breaks when the server ends the connection during a COPY.
AWAY = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# All errors that asyncpg raises.
TROUBLE = (asyncpg.PostgresError, *AWAY)


def dsn(url: str, name: str = "DATABASE_URL") -> str:
    """Return the URL in the form that asyncpg accepts.

    `postgres://` and any `postgresql+driver://` are accepted. Raises SettingsError, which never
    quotes the URL.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise SettingsError(f"{name} must begin with postgresql:// (postgres:// means the same)")
    if split_url(url, name).fragment:
        raise malformed(name)
    return f"postgresql://{rest}"


def address(url: str) -> str:
    """Return host, port and database of the URL, without its secrets, for messages."""
    parts = urlsplit(url)
    return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"


async def connect(url: str, program: str = "fraudops") -> Any:
    """Open an asyncpg connection with the time zone UTC.

    Raises SettingsError, and the errors of asyncpg: call it within `database.translated`.
    """
    checked = dsn(url)
    try:
        return await asyncpg.connect(
            checked,
            timeout=CONNECT_SECONDS,
            server_settings={"application_name": program, "timezone": "UTC"},
        )
    except asyncpg.InterfaceError:
        raise  # It is a ValueError too, but it quotes no password.
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
    """Return the SQLSTATE of an error, or "" if PostgreSQL did not send the error.

    An error that SQLAlchemy has wrapped is unwrapped first.
    """
    inner = getattr(error, "orig", None) or error
    return str(getattr(inner, "sqlstate", None) or "")


def why_away(error: BaseException, variable: str = "DATABASE_URL") -> str | None:
    """Return why PostgreSQL is unavailable, in words that quote no data.

    `variable` is the setting that holds the URL. Returns None when the error is about the request
    itself.
    """
    state = sqlstate(error)
    if state in NO_SCHEMA:
        return "lacks the audit's tables, or has older ones: run `fraudops migrate`"
    if state.startswith("28"):
        return f"refuses this user or password: check {variable}"
    if state.startswith("3D"):
        return f"has no such database: check {variable}"
    if state == NO_RIGHT:
        return f"refuses a right that the role in {variable} needs: grant it, or use the owner"
    if state.startswith(TEMPORARY):
        return f"cannot handle the request now (SQLSTATE {state}): try again"
    if state:
        return None
    inner = getattr(error, "orig", None) or error
    # Prefer the cause of a wrapped error, which says more. Only the types of AWAY count: the cause
    # of a timeout is a mere cancellation.
    cause = next((one for one in (inner.__cause__, inner) if isinstance(one, AWAY)), None)
    if cause or getattr(error, "connection_invalidated", False):
        name = type(cause or inner).__name__
        return f"does not answer ({name}): is it running, and is {variable} right?"
    return None
