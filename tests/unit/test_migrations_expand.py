"""Migrations of the audit only add, so that the previous release works on the new schema.

They rewrite no row and build no index while they hold a table's lock. So their time does not grow
with the table; benchmarks/migrations.py measures it.
"""

import re

import pytest

from tests.support.migrations import statements_after

# Types without a default. bigserial has one, so it rewrites the rows that exist.
TYPES = (
    "text|bytea|uuid|jsonb|boolean|smallint|integer|bigint|real|double precision|numeric|date"
    "|timestamptz|timestamp with time zone"
)
COLUMN = rf"ADD COLUMN \w+ (?:{TYPES})(?:\[\])?"
# A statement of another form fails here. Extend a form only with what the previous release's
# writes survive: it names the columns that it inserts, and knows no others.
ALLOWED = (
    # Nullable and without a default.
    rf"ALTER TABLE \w+ {COLUMN}(?:, {COLUMN})*",
    # A new table. The previous release does not use it. REFERENCES locks the other table, and
    # refuses deletes there. INHERITS adds the new table's rows to what readers of the parent see.
    r"CREATE TABLE \w+ \((?!.*\b(?i:REFERENCES|INHERITS)\b).*\)",
    # ON ONLY builds nothing for the days that exist: fraudops.audit.indexing does it, without a
    # lock that writers wait for.
    r"CREATE INDEX \w+ ON ONLY predictions .*",
    # The row that names the revision.
    r"UPDATE alembic_version SET version_num='\d{4}' WHERE alembic_version\.version_num = '\d{4}'",
)


def unsafe(statements: list[str]) -> list[str]:
    """Return the statements that the previous release, or a full table, may not survive."""
    return [each for each in statements if not any(re.fullmatch(form, each) for form in ALLOWED)]


def test_every_migration_after_the_first_only_adds() -> None:
    statements = statements_after()
    assert unsafe(statements) == []
    assert any(statement.startswith("ALTER TABLE promotions") for statement in statements)


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE predictions DROP COLUMN pod",
        "ALTER TABLE predictions RENAME COLUMN pod TO name",
        "ALTER TABLE predictions RENAME TO answers",
        "ALTER TABLE predictions ALTER COLUMN pod TYPE varchar",
        "ALTER TABLE predictions ALTER COLUMN transaction_id SET NOT NULL",
        "ALTER TABLE predictions ADD COLUMN colour text NOT NULL",
        "ALTER TABLE predictions ADD COLUMN at timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE predictions ADD COLUMN n bigserial",
        "ALTER TABLE predictions ADD COLUMN one text, ADD COLUMN n serial",
        "ALTER TABLE predictions ADD COLUMN one text, DROP COLUMN pod",
        "ALTER TABLE labels ADD CHECK (label < 1)",
        "CREATE TABLE t (id uuid REFERENCES labels (id))",
        "CREATE TABLE t (id uuid, FOREIGN KEY (id) references labels (id))",
        "CREATE TABLE t (id uuid) INHERITS (labels)",
        "CREATE INDEX slow ON predictions (pod)",
        "CREATE INDEX slow ON labels (source)",
        "DROP TABLE labels",
        "DROP INDEX predictions_sample",
        "UPDATE predictions SET pod = ''",
    ],
)
def test_a_statement_that_changes_what_exists_is_found(statement: str) -> None:
    assert unsafe([statement]) == [statement]


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE predictions ADD COLUMN at timestamp with time zone, ADD COLUMN parts text[]",
        "CREATE TABLE t (id uuid PRIMARY KEY, at timestamptz NOT NULL)",
    ],
)
def test_a_statement_that_only_adds_passes(statement: str) -> None:
    assert unsafe([statement]) == []
