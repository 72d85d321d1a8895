"""Revision 6: clients, counts of refused transactions, and imports of labels.

The columns are nullable and have no default, so that release 0.2.0 inserts rows without them and
PostgreSQL rewrites no row. fraudops.audit.indexing builds the parts of `predictions_entity_key` for
the days that exist.
"""

from alembic import op

revision = "0006"
down_revision = "0005"

STATEMENTS = (
    # The authenticated client that asked, that sent the label, or the import that read it.
    "ALTER TABLE predictions ADD COLUMN client text",
    "ALTER TABLE labels ADD COLUMN client text",
    """
    CREATE INDEX predictions_entity_key ON ONLY predictions (entity_key)
    WHERE entity_key IS NOT NULL
    """,
    # `at` is the millisecond of `id`, as in `predictions`.
    """
    CREATE TABLE refusals (
        at timestamptz NOT NULL,
        id uuid NOT NULL,
        pod text NOT NULL,
        endpoint text NOT NULL,
        model_name text NOT NULL,
        model_version text,
        field text NOT NULL,
        reason text NOT NULL,
        rows integer NOT NULL CHECK (rows > 0),
        PRIMARY KEY (at, id)
    )
    """,
    # An import goes on after `rows` rows if the same file is given again with the same options.
    """
    CREATE TABLE label_imports (
        id uuid PRIMARY KEY,
        file_sha256 text NOT NULL,
        options text NOT NULL,
        started_at timestamptz NOT NULL,
        finished_at timestamptz,
        next_batch integer NOT NULL,
        rows bigint NOT NULL,
        inserted bigint NOT NULL,
        repeated bigint NOT NULL,
        contradictory bigint NOT NULL,
        unmatched bigint NOT NULL,
        refused bigint NOT NULL,
        requested_by text NOT NULL,
        UNIQUE (file_sha256, options)
    )
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
