"""Features that are sealed or hashed have a column of their own; one without a default, so that no
row is touched.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("ALTER TABLE predictions ADD COLUMN features_sealed bytea")
