"""Revision 3: the index `predictions_sample`, for samples of large windows (audit.sampling).

ON ONLY creates no parts for existing partitions, because that would block writers. They get their
parts afterwards, by fraudops.audit.indexing.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    key = "(get_byte(uuid_send(id), 14) * 256 + get_byte(uuid_send(id), 15))"
    op.execute(
        "CREATE INDEX predictions_sample ON ONLY predictions "
        f'(prediction, ({key} & -{key}), "timestamp") WHERE prediction = 1 OR {key} & 7 = 0'
    )
