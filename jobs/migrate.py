"""`fraudops migrate`: upgrade the audit database to this release's schema.

Safe to repeat, and safe when several processes run it at the same time.
"""

import time

import click

from fraudops.endpoints import database_url
from fraudops.state import State
from jobs.runner import notices, retry_until, run, state_option, wait_option


@click.command()
@state_option
@wait_option(60.0, "How long to wait for PostgreSQL.")
def command(state: State, wait_seconds: float) -> str:
    """Upgrade the audit database to this release's schema.

    Also creates the partitions of today and tomorrow. Exits with 75 if PostgreSQL stays
    unavailable.
    """
    from fraudops.audit.migrations import migrate
    from fraudops.database_url import address

    url = database_url(state)
    migrated = retry_until(lambda: migrate(url), time.monotonic() + wait_seconds)
    summary = migrated.summary(address(url))
    notices.print(summary, markup=False)
    return summary


if __name__ == "__main__":
    run(command)
