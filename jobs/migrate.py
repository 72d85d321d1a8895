"""`fraudops migrate`: the audit database to this release's schema.

Safe to run again, and by several at once.
"""

import time

import click

from fraudops.endpoints import database_url
from fraudops.errors import StoreDownError
from fraudops.state import State
from jobs.runner import notices, run, state_option

PAUSE_SECONDS = 1.0


@click.command()
@state_option
@click.option(
    "--wait",
    "wait_seconds",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for PostgreSQL.",
)
def command(state: State, wait_seconds: float) -> str:
    """Bring the audit database to this release's schema.

    Makes the partitions of today and tomorrow too. Exits 75 when PostgreSQL is not to be had in
    time.
    """
    from fraudops.audit.connection import address
    from fraudops.audit.migrations import migrate

    url = database_url(state)
    deadline = time.monotonic() + wait_seconds
    said = ""
    while True:
        try:
            migrated = migrate(url)
        except StoreDownError as error:
            if time.monotonic() + PAUSE_SECONDS > deadline:
                raise
            if str(error) != said:
                notices.print(f"waiting: {error}", markup=False)
                said = str(error)
            time.sleep(PAUSE_SECONDS)
        else:
            done = migrated.summary(address(url))
            notices.print(done, markup=False)
            return done


if __name__ == "__main__":
    run(command)
