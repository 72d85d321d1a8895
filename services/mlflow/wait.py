"""`python -m services.mlflow.wait`: returns when MLflow's database lets its role in.

The server itself would give up after a while.
"""

import os
import sys
import time

import psycopg

from fraudops.errors import SettingsError
from fraudops.urls import malformed, split_url

PAUSE_SECONDS = 2.0
CONNECT_SECONDS = 5
VARIABLE = "MLFLOW_BACKEND_STORE_URI"


def fault(url: str) -> str | None:
    """None if the database can be used; else why not, without the password.

    Raises SettingsError for what is no URL.
    """
    parts = split_url(url, VARIABLE)
    try:
        psycopg.connect(
            parts._replace(scheme="postgresql").geturl(), connect_timeout=CONNECT_SECONDS
        ).close()
    except psycopg.OperationalError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()
        return f"PostgreSQL at {parts.hostname}:{parts.port or 5432}{parts.path}: {reason[0]}"
    except psycopg.ProgrammingError:
        # libpq cannot read the URL, and quotes what it cannot read.
        raise malformed(VARIABLE) from None
    return None


def main() -> None:
    url, said = os.environ[VARIABLE], ""
    try:
        while reason := fault(url):
            if reason != said:
                sys.stderr.write(f"waiting for {reason}\n")
                said = reason
            time.sleep(PAUSE_SECONDS)
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    sys.stderr.write("MLflow's database is there\n")


if __name__ == "__main__":
    main()
