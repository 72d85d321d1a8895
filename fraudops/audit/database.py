"""Engines of SQLAlchemy for PostgreSQL, and the translation of its errors."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from fraudops.audit.connection import TROUBLE, address, connect, dsn, why_away
from fraudops.errors import StoreDownError


def create_engine(url: str) -> AsyncEngine:
    """Return an engine. Raises SettingsError for a URL of another scheme."""
    checked = dsn(url)
    # The engine's own URL has no password: it may appear in messages. asyncpg connects with the
    # whole URL, because SQLAlchemy's dialect does not know options such as `sslmode`.
    public_url = f"postgresql+asyncpg://{address(checked)}"
    return create_async_engine(
        public_url,
        async_creator=lambda: connect(checked),
        pool_size=2,
        max_overflow=2,
        pool_pre_ping=True,
    )


@contextmanager
def translated(url: str | None = None) -> Iterator[None]:
    """Raise StoreDownError for the errors of asyncpg and SQLAlchemy that mean "unavailable".

    PostgreSQL is unavailable while it is down, refuses the user, or lacks the tables. Other errors,
    which show a defect of the program, are raised as they are.
    """
    try:
        yield
    except (DBAPIError, *TROUBLE) as error:
        reason = why_away(error)
        if reason is None:
            raise
        raise StoreDownError(
            f"PostgreSQL{f' at {address(url)}' if url else ''} {reason}"
        ) from error
