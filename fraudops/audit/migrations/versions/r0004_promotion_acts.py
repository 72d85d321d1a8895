"""Revision 4: what a promotion did, why its gates were waived, and which pods were behind.

The columns are nullable, because earlier releases insert rows without them. They have no default,
so that PostgreSQL does not rewrite any row.
"""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # `act` is promote, rollback or undo. `behind` holds the names of the pods that had not
    # followed when the act ended.
    op.execute(
        "ALTER TABLE promotions ADD COLUMN act text, ADD COLUMN waiver_reason text, "
        "ADD COLUMN behind text[]"
    )
