"""The MLflow server in one process.

`mlflow server --workers 1` runs a second process that only starts the first. Without it the server
is ready after 3 s instead of 6 s, and takes 190 MB instead of 370 MB (measured).

Two environment variables configure it: MLFLOW_BACKEND_STORE_URI is the database, and
MLFLOW_ARTIFACTS_DESTINATION is the artifacts' folder. The database's URL contains a password, which
every user of the machine could see in a command-line option.
"""

import os
import sys
from pathlib import Path
from typing import Any

from fraudops.database_url import FILE, read_database_url
from fraudops.errors import SettingsError
from fraudops.proxies import bypass_proxies

VARIABLE = "MLFLOW_BACKEND_STORE_URI"
MODULE = "services.mlflow.server"
ROOT = "mlflow-artifacts:/"
ALLOWED_HOSTS = "localhost:*,127.0.0.1:*"


def arguments(port: int, host: str = "127.0.0.1") -> tuple[str, ...]:
    """Return the module to run and its arguments."""
    return (MODULE, host, str(port))


def environment(backend_store: str, artifacts: Path) -> dict[str, str]:
    """Return the variables that the server needs in addition to PATH and HOME.

    `backend_store` is a `postgresql://` URL, or any other URL that SQLAlchemy accepts.
    """
    return {
        VARIABLE: backend_store,
        "MLFLOW_ARTIFACTS_DESTINATION": str(artifacts),
        "MLFLOW_SERVER_ALLOWED_HOSTS": ALLOWED_HOSTS,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "PYTHONWARNINGS": "ignore::DeprecationWarning",
    }


def follow(url: str) -> str:
    """Let every engine of this process connect to PostgreSQL as `url` says; return MLflow's URL.

    MLflow's own URL has no password, so its log has none. SQLAlchemy's form knows one host only,
    and a password that changes in a mounted file must be read for each connection. Another URL
    than PostgreSQL's is returned as it is. Raises SettingsError.
    """
    if not _is_postgresql(url):
        return url
    from sqlalchemy import event
    from sqlalchemy.engine import URL, Engine

    database = read_database_url(url, VARIABLE)

    def set_arguments(dialect: Any, _record: Any, _arguments: Any, named: dict[str, Any]) -> None:
        if dialect.name == "postgresql":
            named.update(read_database_url(url, VARIABLE).for_psycopg())

    event.listen(Engine, "do_connect", set_arguments)
    host = next((host for host, _ in database.hosts), None)
    shown = URL.create("postgresql+psycopg", host=host, database=database.database)
    return shown.render_as_string()


def _is_postgresql(url: str) -> bool:
    return url.startswith(("postgres", FILE))


def accept_newer_tables(backend_store: str) -> None:
    """Let the server work on tables of a newer MLflow, if that MLflow's release allows it.

    `backend_store` is what `follow` returns. Raises SettingsError if the newer release does not
    allow it.
    """
    from mlflow.store.db import utils
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    from fraudops.mlflow_schema import belongs_to_newer

    with create_engine(backend_store, poolclass=NullPool).connect() as connection:
        newer = belongs_to_newer(connection)
    if newer:
        sys.stderr.write("MLflow's tables are those of a newer release, which allows this one\n")
        # The store looks the function up in its module. It compares the revisions, and no more.
        utils._verify_schema = lambda _engine: None


def main() -> None:
    try:
        _run(*sys.argv[1:])
    except SettingsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def _run(host: str, port: str) -> None:
    url = os.environ[VARIABLE]
    backend_store = follow(url)
    # boto3 reads NO_PROXY, so an object store in the cluster is called directly.
    bypass_proxies()
    # Imported here, because the supervisor imports this module and must not load MLflow.
    import uvicorn
    from mlflow.server import constants

    from services.mlflow.wait import wait_for_database

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: backend_store,
        constants.REGISTRY_STORE_URI_ENV_VAR: backend_store,
        constants.ARTIFACT_ROOT_ENV_VAR: ROOT,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: os.environ["MLFLOW_ARTIFACTS_DESTINATION"],
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    # After MLflow's imports, which take longer than the start of PostgreSQL on one machine.
    if _is_postgresql(url):
        wait_for_database(url)
        accept_newer_tables(backend_store)
    # Creates the tables. The server listens afterwards, so every client reaches a working registry.
    initialize_backend_stores(backend_store, backend_store, ROOT)
    uvicorn.run(app, host=host, port=int(port), access_log=False, timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
