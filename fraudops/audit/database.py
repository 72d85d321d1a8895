"""PostgreSQL by SQLAlchemy: engines, and errors translated at the edge."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from fraudops.audit.connection import TROUBLE, address, connect, dsn, why_away
from fraudops.errors import StoreDownError


def create_engine(url: str) -> AsyncEngine:
    """An engine whose connections asyncpg makes from the whole URL, `sslmode` and the like
    included. Raises SettingsError for another scheme.
    """
    checked = dsn(url)
    shown = f"postgresql+asyncpg://{address(checked)}"
    return create_async_engine(
        shown,
        async_creator=lambda: connect(checked),
        pool_size=2,
        max_overflow=2,
        pool_pre_ping=True,
    )


@contextmanager
def translated(url: str | None = None) -> Iterator[None]:
    """Turns what asyncpg and SQLAlchemy raise while PostgreSQL is away, or has no tables yet, into
    StoreDownError; a defect of ours stays what it is.
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
