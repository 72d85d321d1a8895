"""Revision 5: who requested and who approved a promotion, and whose key signed its verdict.

The columns are nullable, because earlier releases insert rows without them. They have no default,
so that PostgreSQL does not rewrite any row.
"""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # `actor` is the name that the API server or the operating system has for `requested_by`. It
    # is proven only where `authenticated` is true. `signer` is the id of a key.
    op.execute(
        "ALTER TABLE promotions ADD COLUMN actor text, ADD COLUMN authenticated boolean, "
        "ADD COLUMN approver text, ADD COLUMN signer text"
    )
