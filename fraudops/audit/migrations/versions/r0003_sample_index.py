"""The index of the rows that are read of a large window.

The days that are there get their parts afterwards (fraudops.audit.indexing): nobody waits for it.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    lot = "(get_byte(uuid_send(id), 14) * 256 + get_byte(uuid_send(id), 15))"
    op.execute(
        f'CREATE INDEX predictions_sample ON ONLY predictions (prediction, ({lot} & -{lot}), "timestamp") WHERE prediction = 1 OR {lot} & 7 = 0'
    )
