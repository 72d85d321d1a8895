"""`python -m services.mlflow.wait`: wait until MLflow's database accepts its user.

MLflow itself would give up after some attempts.
"""

import os
import sys
import time

import psycopg

from fraudops.database_url import read_database_url
from fraudops.errors import SettingsError
from fraudops.urls import malformed

PAUSE_SECONDS = 1.0
VARIABLE = "MLFLOW_BACKEND_STORE_URI"


def fault(url: str) -> str | None:
    """Return why the database cannot be used, without the password, or None if it can.

    Raises SettingsError when the URL is malformed.
    """
    database = read_database_url(url, VARIABLE)
    try:
        psycopg.connect(**database.for_psycopg()).close()
    except psycopg.OperationalError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()
        return f"PostgreSQL at {database.address}: {reason[0]}"
    except psycopg.ProgrammingError:
        # An option that libpq does not know. Its message quotes it, and maybe a password.
        raise malformed(VARIABLE) from None
    return None


def wait_for_database(url: str) -> None:
    """Return when the database accepts its user. Raises SettingsError for a malformed URL."""
    last_reason = ""
    while reason := fault(url):
        # One line per reason keeps the pod's log short.
        if reason != last_reason:
            sys.stderr.write(f"waiting for {reason}\n")
            last_reason = reason
        time.sleep(PAUSE_SECONDS)


def main() -> None:
    try:
        wait_for_database(os.environ[VARIABLE])
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    sys.stderr.write("MLflow's database is ready\n")


if __name__ == "__main__":
    main()
