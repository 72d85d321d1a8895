"""Connections to PostgreSQL by asyncpg, and the meaning of its errors.

It does not import SQLAlchemy, which would make the shipper start slowly.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from fraudops.database_url import read_database_url
from fraudops.errors import SettingsError
from fraudops.urls import malformed

CLOSE_SECONDS = 2.0
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
# Errors after which another host may serve. A refused password is none: it is the same everywhere.
NEXT_HOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TargetServerAttributeNotMatched,
)
_LIMITS = """
SELECT quote_ident(current_user) AS role, name, current_setting(name) AS value FROM pg_settings
WHERE name IN ('statement_timeout', 'lock_timeout') AND setting <> '0' ORDER BY name DESC
"""


async def connect(
    url: str,
    program: str = "fraudops",
    variable: str = "DATABASE_URL",
    within: float | None = None,
) -> Any:
    """Open an asyncpg connection with the time zone UTC to the first host that fits.

    The URL's files are read for each connection, so a changed password is followed. `variable` is
    the setting that holds the URL. `within` is the caller's limit in seconds for connection and
    statement: the hosts share it, so that a silent one leaves time for the next.

    Raises SettingsError, and the errors of asyncpg: call it within `database.translated`.
    """
    database = read_database_url(url, variable)
    arguments = database.for_asyncpg()
    arguments["server_settings"] = {"application_name": program, "timezone": "UTC"}
    arguments["timeout"] = float(database.connect_seconds)
    if within is not None:
        # The last share is for the statement.
        arguments["timeout"] = min(arguments["timeout"], within / (len(database.hosts) + 1))
    failures: list[Exception] = []
    # asyncpg takes a list of hosts too, but one limit for all of them: a first host that swallows
    # packets would use it up, and the standby that has become the primary would never be asked.
    for host, port in database.hosts or ((None, None),):
        try:
            return await _connect_to(host, port, variable, arguments)
        except NEXT_HOST as error:
            failures.append(error)
    raise max(failures, key=_worth)


async def _connect_to(
    host: str | None, port: int | None, variable: str, arguments: dict[str, Any]
) -> Any:
    """Connect to one host. Raises SettingsError for a URL that asyncpg refuses."""
    try:
        # PgBouncer in transaction mode gives each transaction another connection, on which
        # statements that were prepared before do not exist.
        return await asyncpg.connect(host=host, port=port, statement_cache_size=0, **arguments)
    except asyncpg.ClientConfigurationError as error:
        # `read_database_url` has checked the rest.
        raise SettingsError(
            f"{variable} cannot be used ({error}): check sslmode, sslrootcert, sslcert and sslkey"
        ) from None
    except (*NEXT_HOST, asyncpg.InterfaceError):
        raise  # Some of them are a ValueError too, but they quote no password.
    except ValueError:
        raise malformed(variable) from None


def _worth(failure: Exception) -> int:
    """Rank the failures of several hosts: which one says most about what to do."""
    kinds = (asyncpg.TargetServerAttributeNotMatched, ssl.SSLError)
    return next((rank for rank, kind in enumerate(kinds, 1) if isinstance(failure, kind)), 0)


@asynccontextmanager
async def limited_transaction(
    connection: Any, lock_seconds: float, idle_seconds: float = 60.0
) -> AsyncIterator[None]:
    """Begin a transaction with a limit for each wait for a lock, and one for its idle time.

    A lost connection may leave an open transaction on the server. Without the second limit its
    locks would stay until TCP notices. The limits hold for this transaction alone, because behind
    PgBouncer in transaction mode the next one runs on another connection.
    """
    async with connection.transaction():
        await connection.execute(
            f"SET LOCAL lock_timeout = '{lock_seconds:g}s'; "
            f"SET LOCAL idle_in_transaction_session_timeout = '{idle_seconds:g}s'"
        )
        yield


@asynccontextmanager
async def open_connection(
    url: str, program: str = "fraudops", variable: str = "DATABASE_URL"
) -> AsyncIterator[Any]:
    """Open a connection as `connect` does, for one block, and close it at the end of the block."""
    connection = await connect(url, program, variable)
    try:
        yield connection
    finally:
        # A server that has fallen silent must not delay the end. `close` then terminates.
        with contextlib.suppress(*TROUBLE):
            await connection.close(timeout=CLOSE_SECONDS)


async def limits_of_role(connection: Any) -> str | None:
    """Return which limits of its own the role has, and the SQL against them, or None."""
    rows = await connection.fetch(_LIMITS)
    if not rows:
        return None
    limits = " and ".join(f"{row['name']} = {row['value']}" for row in rows)
    sql = "; ".join(f"ALTER ROLE {row['role']} SET {row['name']} = 0" for row in rows)
    return f"the role has {limits}: run {sql}"


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
    if reason := _why_unfit(cause, variable):
        return reason
    if cause or getattr(error, "connection_invalidated", False):
        name = type(cause or inner).__name__
        return f"does not answer ({name}): is it running, and is {variable} right?"
    return None


def _why_unfit(error: BaseException | None, variable: str) -> str | None:
    """Return why a server that answers is not the one that the URL asks for."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"shows a certificate that {variable} does not allow ({error.verify_message}): "
            "check sslrootcert and the name of the host"
        )
    if isinstance(error, ssl.SSLError):
        return f"ends TLS ({error.reason}): check sslmode, sslcert and sslkey in {variable}"
    if isinstance(error, ConnectionError) and "rejected SSL" in str(error):
        return f"offers no TLS, and sslmode in {variable} asks for it"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return f"does not fit target_session_attrs: is the primary among the hosts of {variable}?"
    return None
