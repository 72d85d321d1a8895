"""Revision 2: a column for encrypted or hashed features.

It has no default, so that PostgreSQL does not rewrite any row.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE predictions ADD COLUMN features_sealed bytea")
