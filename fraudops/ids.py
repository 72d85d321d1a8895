"""Prediction ids: UUIDv7, which sort by time.

The audit table is partitioned by the millisecond inside the id.
"""

import uuid_utils

# The prefix of the transaction_id of a test of the installation, such as `helm test`. Do not change
# it: it is written into audit rows.
TEST_PREFIX = "fraudops-test-"


def uuid7() -> str:
    """Return a new UUIDv7 as canonical text, from the clock in milliseconds and random bits."""
    return str(uuid_utils.uuid7())


def timestamp_ms(identifier: str) -> int:
    """Return the Unix milliseconds of a canonical UUIDv7. Raises ValueError for anything else."""
    if len(identifier) != 36 or identifier[14] != "7":
        raise ValueError("not a canonical UUIDv7")
    return int(identifier[:8] + identifier[9:13], 16)
