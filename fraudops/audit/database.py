"""Engines of SQLAlchemy for PostgreSQL, and the translation of its errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from fraudops.audit.connection import TROUBLE, connect, sqlstate, why_away
from fraudops.database_url import address, read_database_url
from fraudops.errors import StoreDownError

SHOWN_URL = "fraudops_shown_url"


def create_engine(url: str, within: float | None = None) -> AsyncEngine:
    """Return an engine; `within` is that of `connect`.

    Raises SettingsError for a URL that is malformed or of another scheme.
    """
    database = read_database_url(url)
    # The engine's own URL is empty: SQLAlchemy's form has one host, and does not know options such
    # as `sslmode`.
    return create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(url, within=within),
        pool_size=2,
        max_overflow=2,
        pool_pre_ping=True,
        execution_options={SHOWN_URL: f"postgresql://{database.address}"},
    )


def shown_url(engine: AsyncEngine) -> str:
    """Return the URL of an engine that `create_engine` has made, without user and password."""
    return str(engine.get_execution_options()[SHOWN_URL])


@contextmanager
def translated(
    url: str | None = None, variable: str = "DATABASE_URL", refusal: str | None = None
) -> Iterator[None]:
    """Raise StoreDownError for the errors of asyncpg and SQLAlchemy that mean "unavailable".

    PostgreSQL is unavailable while it is down, refuses the user, or lacks the tables. Other errors,
    which show a defect of the program, are raised as they are. With `refusal` they become a
    StoreDownError too, whose reason begins with it. `variable` is the setting that holds the URL.
    """
    try:
        yield
    except (DBAPIError, *TROUBLE) as error:
        reason = why_away(error, variable)
        if reason is None and refusal is None:
            raise
        # psycopg sends no SQLSTATE with an error of the connection.
        code = sqlstate(error)
        detail = f"SQLSTATE {code}" if code else type(getattr(error, "orig", error)).__name__
        raise StoreDownError(
            f"PostgreSQL{f' at {address(url)}' if url else ''} "
            f"{reason or f'{refusal} ({detail}): look into its log'}"
        ) from error
