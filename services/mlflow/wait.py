"""`python -m services.mlflow.wait`: returns when MLflow's database lets its role in.

The server itself would give up after a while.
"""

import os
import sys
import time
from urllib.parse import urlsplit

import psycopg

PAUSE_SECONDS = 2.0
CONNECT_SECONDS = 5


def fault(url: str) -> str | None:
    """None if the database can be used; else why not, without the password."""
    parts = urlsplit(url)
    try:
        psycopg.connect(
            parts._replace(scheme="postgresql").geturl(), connect_timeout=CONNECT_SECONDS
        ).close()
    except psycopg.OperationalError as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()
        return f"PostgreSQL at {parts.hostname}:{parts.port or 5432}{parts.path}: {reason[0]}"
    return None


def main() -> None:
    url, said = os.environ["MLFLOW_BACKEND_STORE_URI"], ""
    while reason := fault(url):
        if reason != said:
            sys.stderr.write(f"waiting for {reason}\n")
            said = reason
        time.sleep(PAUSE_SECONDS)
    sys.stderr.write("MLflow's database is there\n")


if __name__ == "__main__":
    main()
