"""Options that take a time, for audit and drift.

Light to import.
"""

from datetime import UTC, datetime, timedelta

import click

from fraudops.errors import SettingsError

TimeWindow = tuple[datetime, datetime]


def to_moment(value: str, alternative: str = "") -> datetime:
    """Return the moment of an ISO 8601 text; a text without a time zone is in UTC.

    `alternative` names another accepted value, such as ", or `last`". Raises BadParameter.
    """
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(
            f"give an ISO time such as 2026-11-02T12:00:00Z{alternative}"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _optional_moment(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> datetime | None:
    return None if value is None else to_moment(value)


since_option = click.option(
    "--since",
    callback=_optional_moment,
    metavar="TIME",
    help="Start of the window: an ISO time (UTC). [default: 24 hours ago]",
)
until_option = click.option(
    "--until",
    callback=_optional_moment,
    metavar="TIME",
    help="End of the window: an ISO time (UTC). [default: now]",
)


def to_window(since: datetime | None, until: datetime | None) -> TimeWindow:
    """Return the window of the two options, in UTC. Raises SettingsError if it is empty."""
    end = (until or datetime.now(UTC)).astimezone(UTC)
    start = (since or end - timedelta(hours=24)).astimezone(UTC)
    if start >= end:
        raise SettingsError(
            f"the window from {start.isoformat()} to {end.isoformat()} is empty: --since must be "
            "before --until"
        )
    return start, end
