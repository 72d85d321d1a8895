"""Which MLflow servers may work on MLflow's tables.

MLflow's server refuses tables of every revision but its own, also when a newer MLflow only added to
them. So each release writes into the database which earlier MLflow servers were tested on its
tables. The server of such an earlier release then works on, and `helm rollback` has a way back.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, text

from fraudops.errors import SettingsError

# The newest revision of the tables of each release's MLflow, with those of the earlier MLflow whose
# server passed tests/jobs/test_mlflow_rollback.py on these tables. CONTRIBUTING says how to run it.
# An empty tuple means that only a restored backup leads back.
SERVES: Mapping[str, tuple[str, ...]] = {
    # MLflow 3.17.2. Release 0.2.0 has the same one.
    "dc11669786a5": (),
}
_TABLE = "fraudops_mlflow_schema"
# In the database of MLflow. Later releases only add columns, because earlier ones read it.
_CREATE = f"""
CREATE TABLE IF NOT EXISTS {_TABLE} (revision text PRIMARY KEY, serves text[] NOT NULL)
"""
_WRITE = f"""
INSERT INTO {_TABLE} (revision, serves) VALUES (:revision, :serves)
ON CONFLICT (revision) DO UPDATE SET serves = excluded.serves
"""  # noqa: S608 (only a constant of this module)
_SERVES = f"SELECT serves FROM {_TABLE} WHERE revision = :revision"  # noqa: S608


def installed_revisions() -> tuple[str, frozenset[str]]:
    """Return the newest revision of the installed MLflow, and all that it knows."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    script = ScriptDirectory.from_config(_get_alembic_config(db_url=""))
    known = frozenset(step.revision for step in script.walk_revisions())
    return str(script.get_current_head()), known


def belongs_to_newer(connection: Connection) -> bool:
    """Return whether a newer MLflow wrote the tables, and lets the installed one work on them.

    Raises SettingsError if it does not.
    """
    revision = _revision(connection)
    head, known = installed_revisions()
    if revision is None or revision in known:
        return False
    if head in _declared(connection, revision):
        return True
    raise SettingsError(
        f"MLflow's tables have the revision {revision} of a newer release, and the MLflow of this "
        "release cannot use them: run the newer release that upgraded them, or restore a backup "
        "from before that upgrade"
    )


def declare(connection: Connection, serves: Mapping[str, tuple[str, ...]] = SERVES) -> None:
    """Write which earlier MLflow servers may work on the tables, if they are of this release."""
    revision = _revision(connection)
    if revision is not None and revision in serves:
        connection.execute(text(_CREATE))
        connection.execute(text(_WRITE), {"revision": revision, "serves": list(serves[revision])})


def _revision(connection: Connection) -> str | None:
    if not _exists(connection, "alembic_version"):
        return None
    found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return None if found is None else str(found)


def _declared(connection: Connection, revision: str) -> list[str]:
    if not _exists(connection, _TABLE):
        return []
    return list(connection.scalar(text(_SERVES), {"revision": revision}) or ())


def _exists(connection: Connection, table: str) -> bool:
    asked = text("SELECT to_regclass(:table) IS NOT NULL")
    return bool(connection.scalar(asked, {"table": table}))
